"""Normalization layers by name, for models of any width."""

from __future__ import annotations

from collections.abc import Callable

import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d, get_norm
from torch import nn
from torch.nn import functional

from mask_rcnn_repro.errors import ConfigError

NORMS = ("", "FrozenBN", "BN", "SyncBN", "GN")

_GN_GROUPS = 32  # Detectron2's and the Group Normalization paper's
_MIN_CHANNELS_PER_GROUP = 4


def group_count(channels: int) -> int:
    """Number of groups of ``"GN"``, a divisor of ``channels``.

    For 64 channels and more, in multiples of 32, this is Detectron2's 32. For narrower layers
    Detectron2 fails or uses one channel per group. Here they get the largest divisor of
    ``channels`` that is at most 32 and leaves at least 4 channels in a group.
    """
    if channels % _GN_GROUPS == 0 and channels >= 2 * _GN_GROUPS:
        return _GN_GROUPS
    largest = min(_GN_GROUPS, channels // _MIN_CHANNELS_PER_GROUP)
    return next((g for g in range(largest, 1, -1) if channels % g == 0), 1)


class FoldedConv2d(Conv2d):
    """Detectron2's convolution followed by its frozen batch norm, in training as one convolution.

    The norm scales the weights, which are trained as before, and its shift is the bias. So no map
    is written, and kept for the backward pass, between the two. Results are equal up to rounding.
    Scale and shift are computed again only if the norm's buffers have changed.
    """

    _folded: tuple[list[tuple[torch.Tensor, int]], torch.Tensor, torch.Tensor] | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (N, C, H, W) to (N, O, H', W')."""
        norm = self.norm
        if not self.training or type(norm) is not FrozenBatchNorm2d or norm._forward_hooks:
            y: torch.Tensor = super().forward(x)
            return y
        if torch.compiler.is_compiling():  # which computes them in the kernel that scales weights
            scale, shift = _scale_and_shift(norm)
        else:
            state = [(buffer, buffer._version) for buffer in norm.buffers()]
            if self._folded is None or _ids(self._folded[0]) != _ids(state):
                self._folded = (state, *_scale_and_shift(norm))
            _, scale, shift = self._folded
        weight = self.weight * scale
        geometry = (self.stride, self.padding, self.dilation, self.groups)
        x = functional.conv2d(x, weight, shift, *geometry)
        return x if self.activation is None else self.activation(x)


def _scale_and_shift(norm: FrozenBatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return scale.reshape(-1, 1, 1, 1), norm.bias - norm.running_mean * scale


def _ids(state: list[tuple[torch.Tensor, int]]) -> list[tuple[int, int]]:
    return [(id(buffer), version) for buffer, version in state]


def fold_frozen_norms(module: nn.Module) -> None:
    """Makes every convolution of `module` with a frozen batch norm a :class:`FoldedConv2d`.

    Detectron2's blocks build their convolutions themselves. Parameters and their names stay.
    """
    for part in module.modules():
        if type(part) is Conv2d and type(part.norm) is FrozenBatchNorm2d and part.bias is None:
            part.__class__ = FoldedConv2d


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(group_count(channels), channels)


def resolve_norm(norm: str) -> str | Callable[[int], nn.Module]:
    """Converts one of :data:`NORMS` to what Detectron2's layers accept as ``norm``.

    Args:
        norm: ``""`` is none; ``"GN"`` fits any width (:func:`group_count`).

    Returns:
        The name itself, or a function from a channel count to a layer.

    Raises:
        ConfigError: For an unknown name.
    """
    if norm not in NORMS:
        raise ConfigError(f"norm={norm!r} is unknown; allowed: {', '.join(map(repr, NORMS))}")
    return _group_norm if norm == "GN" else norm


def build_norm(norm: str, channels: int) -> nn.Module | None:
    """Builds a layer, or None for ``""``. Raises ConfigError as :func:`resolve_norm`."""
    layer: nn.Module | None = get_norm(resolve_norm(norm), channels)
    return layer
