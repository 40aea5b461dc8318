"""Detectron2's blocks, pyramid and RPN head for inference, made of fused convolutions.

Each is constructed from the module that it replaces, in evaluation mode, and the type to compute
in. Outputs are equal up to rounding.
"""

from __future__ import annotations

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import FPN, BasicStem
from detectron2.modeling.backbone.resnet import BasicBlock, BottleneckBlock
from detectron2.modeling.proposal_generator.rpn import StandardRPNHead
from torch import nn
from torch.nn import functional

from mask_rcnn_repro.modeling.inference.fused_layers import FusedConv2d


class FusedStem(nn.Module):
    """``BasicStem``: 7x7 convolution, ReLU, pooling."""

    def __init__(self, stem: BasicStem, dtype: torch.dtype) -> None:
        super().__init__()
        self.conv1 = FusedConv2d.of(stem.conv1, dtype, relu=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (N, 3, H, W) to (N, C, H / 4, W / 4)."""
        return functional.max_pool2d(self.conv1(x), kernel_size=3, stride=2, padding=1)


class FusedResidual(nn.Module):
    """``BasicBlock`` or ``BottleneckBlock``; the last convolution adds the shortcut."""

    def __init__(self, block: BasicBlock | BottleneckBlock, dtype: torch.dtype) -> None:
        super().__init__()
        convs = [block.conv1, block.conv2, *([block.conv3] if hasattr(block, "conv3") else [])]
        self.convs = nn.ModuleList(FusedConv2d.of(conv, dtype, relu=True) for conv in convs)
        self.shortcut = None
        if block.shortcut is not None:
            self.shortcut = FusedConv2d.of(block.shortcut, dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (N, C, H, W) to (N, O, H / stride, W / stride); N may be 0."""
        *first, last = self.convs
        out = x
        for conv in first:
            out = conv(out)
        if self.shortcut is not None:
            return last(out, self.shortcut(x))
        # on a CPU the last convolution overwrites what it adds, and x belongs to the caller
        return last(out, x.to(last.dtype, memory_format=torch.channels_last, copy=x.is_cpu))


class FusedFPN(nn.Module):
    """``FPN`` that sums; lateral convolutions add the coarser level.

    ``bottom_up`` and ``top_block`` are used unchanged.
    """

    def __init__(self, fpn: FPN, dtype: torch.dtype) -> None:
        super().__init__()
        self.bottom_up = fpn.bottom_up
        self.top_block = fpn.top_block
        self.in_features = fpn.in_features
        self.laterals = nn.ModuleList(FusedConv2d.of(c, dtype) for c in fpn.lateral_convs)
        self.outputs = nn.ModuleList(FusedConv2d.of(c, dtype) for c in fpn.output_convs)
        self.size_divisibility: int = fpn.size_divisibility
        self.padding_constraints: dict[str, int] = fpn.padding_constraints
        self._shapes: dict[str, ShapeSpec] = fpn.output_shape()

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each level."""
        return self._shapes

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Maps (N, 3, H, W) to (N, C, H / s, W / s) by level, from fine to coarse."""
        below: dict[str, torch.Tensor] = self.bottom_up(x)
        above: torch.Tensor | None = None
        results: list[torch.Tensor] = []
        for name, lateral, output in zip(
            reversed(self.in_features), self.laterals, self.outputs, strict=True
        ):
            if above is not None:
                above = functional.interpolate(above, scale_factor=2.0, mode="nearest")
            above = lateral(below[name], add=above)
            results.insert(0, output(above))
        levels = dict(zip(self._shapes, results, strict=False))
        if self.top_block is not None:
            source = self.top_block.in_feature
            results.extend(self.top_block(below[source] if source in below else levels[source]))
        return dict(zip(self._shapes, results, strict=True))


class FusedRPNHead(nn.Module):
    """``StandardRPNHead``; objectness and deltas come from one 1x1 convolution, in float32."""

    def __init__(self, head: StandardRPNHead, dtype: torch.dtype) -> None:
        super().__init__()
        hidden = head.conv if isinstance(head.conv, nn.Sequential) else [head.conv]
        self.hidden = nn.ModuleList(FusedConv2d.of(conv, dtype) for conv in hidden)
        parts = (head.objectness_logits, head.anchor_deltas)
        self.splits = [part.out_channels for part in parts]
        self.predictor = FusedConv2d(
            torch.cat([part.weight.detach() for part in parts]),
            torch.cat([part.bias.detach() for part in parts]),
            dtype=torch.promote_types(dtype, torch.float32),
        )

    def forward(
        self, features: list[torch.Tensor]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Maps (N, C, H, W) of each level to logits (N, A, H, W) and deltas (N, 4 A, H, W)."""
        logits, deltas = [], []
        for x in features:
            for conv in self.hidden:
                x = conv(x)
            of_level = self.predictor(x).split(self.splits, dim=1)
            logits.append(of_level[0])
            deltas.append(of_level[1])
        return logits, deltas
