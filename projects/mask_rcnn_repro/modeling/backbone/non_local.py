"""Non-local block (Wang et al., "Non-local Neural Networks", 2017) for the stages of a ResNet.

Each position adds to its features those of all positions of its image, weighted by similarity
(the embedded Gaussian of section 3.2):

    y_i = sum_j softmax_j(theta(x_i)^T phi(x_j)) g(x_j),    z_i = x_i + norm(W y_i)

`norm` starts with scale and shift zero. Then z = x, and a new block in a pre-trained network
changes nothing until it is trained. The block has neither the factor 1/sqrt(d) of later attention
layers nor the paper's optional subsampling of the positions j.

Shapes: N images, C channels, D = C / 2 inner channels, H x W feature map, P = H W positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from detectron2.layers import CNNBlockBase, Conv2d
from detectron2.modeling.backbone import ResNet
from torch import nn
from torch.nn import functional as F

from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.modeling.backbone.norm import build_norm

NON_LOCAL_NAME = "non_local"
"""Name of the block in its stage; the residual blocks keep their numbers as names."""

_INIT_STD = 0.01  # of the authors' code; the paper does not state it


class ChannelAffine(nn.Module):
    """A trainable scale and shift of each channel, for batch norm with frozen statistics."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (N, C, H, W) to the same shape and dtype."""
        weight, bias = (p.to(x.dtype).reshape(1, -1, 1, 1) for p in (self.weight, self.bias))
        return x * weight + bias


class NonLocalBlock(CNNBlockBase):
    """One embedded-Gaussian non-local block; the map keeps its shape.

    Similarities are summed and exponentiated in float32 (float64 for float64 features). PyTorch's
    fused attention kernels do not store the P x P similarities. Where none applies they take 70 MB
    per image at stage 4 of 800 x 1333 pixels.

    Args:
        channels: C, of input and output.
        inner_channels: D, of theta, phi and g; None is C / 2, rounded down, and at least 1.
        norm: Norm of the network, one of :data:`~mask_rcnn_repro.modeling.backbone.norm.NORMS`. A
            new layer has no statistics that could be frozen. ``"FrozenBN"`` and ``""`` therefore
            use :class:`ChannelAffine`.

    Raises:
        ConfigError: For channels that are not positive, and for an unknown norm.
    """

    added_to_pretrained: ClassVar[bool] = True
    """Pre-trained weights do not contain the block; loading them keeps its initial weights."""

    def __init__(
        self, channels: int, *, inner_channels: int | None = None, norm: str = "FrozenBN"
    ) -> None:
        super().__init__(channels, channels, 1)
        inner = max(1, channels // 2) if inner_channels is None else inner_channels
        if channels < 1 or inner < 1:
            raise ConfigError(
                f"a non-local block needs at least one channel, got channels={channels}, "
                f"inner_channels={inner}"
            )
        last = build_norm(norm, channels)
        if last is None or norm == "FrozenBN":
            last = ChannelAffine(channels)
        self.theta = nn.Conv2d(channels, inner, 1, bias=False)
        self.phi = nn.Conv2d(channels, inner, 1, bias=False)
        self.g = nn.Conv2d(channels, inner, 1, bias=False)
        self.output = Conv2d(inner, channels, 1, bias=False, norm=last)
        for layer in (self.theta, self.phi, self.g, self.output):
            nn.init.normal_(layer.weight, std=_INIT_STD)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (N, C, H, W) to the same shape, dtype and memory format."""
        theta, phi, g = (
            layer(x).flatten(2).transpose(1, 2).contiguous()[:, None]  # (N, 1 head, P, D)
            for layer in (self.theta, self.phi, self.g)
        )
        y = F.scaled_dot_product_attention(theta, phi, g, scale=1.0)
        y = y[:, 0].transpose(1, 2).unflatten(2, x.shape[-2:])  # (N, D, H, W)
        return x + self.output(y).to(x.dtype)


def insert_non_local(network: ResNet, stages: Sequence[str], norm: str, freeze_at: int = 0) -> None:
    """Inserts a block before the last residual block of each named stage, in place.

    The residual blocks keep their state-dict keys. Those of the block are ``res4.non_local.*``.

    Args:
        network: Network without such blocks.
        stages: For example ``["res4"]``, as in the paper.
        norm: See :class:`NonLocalBlock`.
        freeze_at: Number of frozen stages, as in Detectron2's ``ResNet``.

    Raises:
        ConfigError: For missing, repeated or frozen stages. In a frozen stage the block would never
            change anything.
    """
    known = list(network.stage_names)
    if isinstance(stages, str) or len(set(stages)) < len(stages) or not set(stages) <= set(known):
        raise ConfigError(
            f"non_local={stages if isinstance(stages, str) else list(stages)} must be a list of "
            f"different stages of the network: {', '.join(known)}"
        )
    for name in stages:
        if freeze_at >= known.index(name) + 2:
            raise ConfigError(
                f"non_local={list(stages)} contains {name}, which freeze_at={freeze_at} freezes. "
                "The block, whose output starts as zero, would not be trained. Use a later stage, "
                f"or lower freeze_at to {known.index(name) + 1}."
            )
        stage = getattr(network, name)
        number, last = list(stage.named_children())[-1]
        del stage[-1]
        stage.add_module(NON_LOCAL_NAME, NonLocalBlock(last.in_channels, norm=norm))
        stage.add_module(number, last)
