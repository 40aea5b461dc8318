"""RPN (Faster R-CNN): its head, and the RPN of a stage of its own (section 3.1).

Shapes: N images, A anchors at each place, H x W the feature map's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.layers import Conv2d
from detectron2.modeling.proposal_generator import PROPOSAL_GENERATOR_REGISTRY, RPN
from detectron2.modeling.proposal_generator.rpn import RPN_HEAD_REGISTRY, StandardRPNHead
from detectron2.structures import Boxes, Instances
from torch import nn

from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.modeling.accel.sparse_rpn_head import merge_1x1, rpn_head


def anchors_per_location(
    anchor_sizes: Sequence[Any], aspect_ratios: Sequence[Any], num_levels: int
) -> int:
    """Number of anchors at each place, the same on every level.

    Args:
        anchor_sizes: As for ``DefaultAnchorGenerator``: one list for all levels, or a list of
            lists, one for each level (or a single one for all).
        aspect_ratios: In the same forms.
        num_levels: Number of feature maps that share the head.

    Returns:
        Number of sizes times number of ratios.

    Raises:
        ConfigError: If the levels have different numbers, or the number of lists does not fit.
    """

    def counts(name: str, values: Sequence[Any]) -> list[int]:
        nested = len(values) > 0 and isinstance(values[0], Sequence)
        per_level = [len(v) for v in values] if nested else [len(values)]
        if len(per_level) == 1:
            per_level *= num_levels
        if len(per_level) != num_levels or len(set(per_level)) != 1 or per_level[0] == 0:
            raise ConfigError(
                f"anchor generator's {name}={list(values)} must be one list for all levels, or one"
                f" for each of the {num_levels} levels, all of the same length"
            )
        return per_level

    return counts("sizes", anchor_sizes)[0] * counts("aspect_ratios", aspect_ratios)[0]


@RPN_HEAD_REGISTRY.register()
class PaperRPNHead(StandardRPNHead):
    """Detectron2's head: a 3x3 convolution, then objectness and box deltas by 1x1 convolutions.

    Outputs are float32 in mixed precision too. In bfloat16 hundreds of anchors would have the same
    score, so their ranking before and within NMS would be arbitrary.

    On the CPU the backward pass reads only the places that the loss reads
    (:mod:`~mask_rcnn_repro.modeling.accel.sparse_rpn_head`). Gradients are equal up to rounding.

    Args:
        in_channels: Channels of each feature map.
        num_anchors: A; None computes it from the next three.
        anchor_sizes: See :func:`anchors_per_location`.
        aspect_ratios: See :func:`anchors_per_location`.
        num_levels: Feature maps that share this head.
        box_dim: Numbers of a box, 4.
        conv_dims: Channels of the hidden convolutions; -1 keeps ``in_channels``.

    Raises:
        ConfigError: If the number of anchors is neither given nor derivable.
    """

    @configurable
    def __init__(
        self,
        *,
        in_channels: int,
        num_anchors: int | None = None,
        anchor_sizes: Sequence[Any] | None = None,
        aspect_ratios: Sequence[Any] | None = None,
        num_levels: int = 1,
        box_dim: int = 4,
        conv_dims: Sequence[int] = (-1,),
    ) -> None:
        if num_anchors is None:
            if anchor_sizes is None or aspect_ratios is None:
                raise ConfigError(
                    "PaperRPNHead needs num_anchors, or anchor_sizes and aspect_ratios"
                )
            num_anchors = anchors_per_location(anchor_sizes, aspect_ratios, num_levels)
        super().__init__(
            in_channels=in_channels,
            num_anchors=num_anchors,
            box_dim=box_dim,
            conv_dims=list(conv_dims),
        )

    def forward(
        self, features: list[torch.Tensor]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Predicts for every level.

        Args:
            features: (N, C, H, W) each.

        Returns:
            Objectness logits (N, A, H, W) and deltas (N, 4 A, H, W) of each level, float32.
        """
        if self._sparse_backward(features):
            logits, deltas = self._forward_merged(features)
        else:
            logits, deltas = super().forward(features)
        return [x.float() for x in logits], [x.float() for x in deltas]

    def _sparse_backward(self, features: list[torch.Tensor]) -> bool:
        """Whether to use the sparse backward pass.

        Not on a GPU, where finding the places would make every step wait for the device, and not
        if compiled.
        """
        return (
            torch.is_grad_enabled()
            and not torch.compiler.is_compiling()
            and features[0].device.type == "cpu"
            and self.objectness_logits.weight.requires_grad
            and type(self.conv) is Conv2d
            and self.conv.norm is None
            and type(self.conv.activation) is nn.ReLU
            and _is_usual(self.conv, 3)
            and all(
                type(part) is nn.Conv2d and _is_usual(part, 1)
                for part in (self.objectness_logits, self.anchor_deltas)
            )
        )

    def _forward_merged(
        self, features: list[torch.Tensor]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Computes both 1x1 convolutions as one."""
        parts = self.objectness_logits, self.anchor_deltas
        weight = merge_1x1([part.weight for part in parts])
        bias = torch.cat([part.bias for part in parts])
        sizes = [part.out_channels for part in parts]
        outputs = [
            rpn_head(x, self.conv.weight, self.conv.bias, weight, bias).split(sizes, dim=1)
            for x in features
        ]
        return [logits for logits, _ in outputs], [deltas for _, deltas in outputs]


def _is_usual(conv: nn.Conv2d, side: int) -> bool:
    """Whether a convolution has the given kernel size, keeps the map's size and has no hooks."""
    same = (
        conv.kernel_size == (side, side)
        and conv.padding == (side // 2, side // 2)
        and conv.stride == conv.dilation == (1, 1)
        and (conv.groups, conv.padding_mode) == (1, "zeros")
    )
    forward_hooks = conv._forward_hooks or conv._forward_pre_hooks
    hooks = forward_hooks or conv._backward_hooks or conv._backward_pre_hooks
    return same and conv.bias is not None and not hooks


@PROPOSAL_GENERATOR_REGISTRY.register()
class StageRPN(RPN):
    """Detectron2's RPN, without proposals in training (section 3.1: "RPN is trained separately").

    Its losses do not depend on its proposals, and without a second stage nothing reads them.
    Omitting box decoding and NMS in training saves up to a third of an iteration. Arguments and
    state-dict keys are those of ``RPN``.
    """

    def predict_proposals(
        self,
        anchors: list[Boxes],
        pred_objectness_logits: list[torch.Tensor],
        pred_anchor_deltas: list[torch.Tensor],
        image_sizes: list[tuple[int, int]],
    ) -> list[Instances]:
        """As in ``RPN``; an empty list in training."""
        if self.training:
            return []
        proposals: list[Instances] = super().predict_proposals(
            anchors, pred_objectness_logits, pred_anchor_deltas, image_sizes
        )
        return proposals
