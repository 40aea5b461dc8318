"""torchvision's RoI operators with gradients that are summed in a fixed order on a GPU.

torchvision's own add them in any order. Its RoIAlign for deterministic algorithms gives other
values: it clamps samples outside the map instead of taking zero.

Shapes: R RoIs (image index, x1, y1, x2, y2), S bins and n samples per side, map (N, C, H, W).
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torchvision import ops

_LARGEST = 2**26  # elements of an intermediate result of the backward pass


def _wanted(x: torch.Tensor) -> bool:
    return torch.are_deterministic_algorithms_enabled() and x.is_cuda


def roi_pool(x: torch.Tensor, rois: torch.Tensor, size: Any, scale: float) -> torch.Tensor:
    """`torchvision.ops.roi_pool`."""
    if not _wanted(x):
        return ops.roi_pool(x, rois, size, scale)
    cells = torch.ops.torchvision.roi_pool(x.detach(), rois, scale, *size)[1].long()
    planes = rois[:, :1].long() * x.shape[1] + torch.arange(x.shape[1], device=x.device)
    values = x.flatten(2).flatten(0, 1)[planes[..., None, None], cells.clamp(min=0)]
    return values.masked_fill(cells < 0, 0)  # bins without cells


def roi_align(x: torch.Tensor, rois: torch.Tensor, *layout: Any) -> torch.Tensor:
    """`torchvision.ops.roi_align`; `layout` is (rows, columns), scale, n or 0, and aligned."""
    return _RoIAlign.apply(x, rois, *layout) if _wanted(x) else ops.roi_align(x, rois, *layout)


class _RoIAlign(torch.autograd.Function):
    """The operator, and the gradient of the same sums written as a matrix product per axis."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, rois: torch.Tensor, size: Any, scale: float, *layout: Any
    ) -> torch.Tensor:
        ctx.save_for_backward(rois)
        ctx.shape, ctx.layout = x.shape, (scale, *layout)
        return torch.ops.torchvision.roi_align(x, rois, scale, *size, *layout)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (rois,), (_, channels, height, width) = ctx.saved_tensors, ctx.shape
        rows, columns = gradient.shape[2:]
        result = gradient.new_zeros(ctx.shape)
        for image in rois[:, 0].unique():
            chosen = (rois[:, 0] == image).nonzero()[:, 0]
            for part in chosen.split(max(1, _LARGEST // (channels * rows * width))):
                y = _weights(rois[part, 2::2], rows, height, *ctx.layout)
                x = _weights(rois[part, 1::2], columns, width, *ctx.layout)
                along_x = (gradient[part] @ x[:, None]).transpose(1, 2)  # (R, S, C, W)
                along_y = y.flatten(0, 1).T @ along_x.flatten(2).flatten(0, 1)
                result[image.int()] += along_y.unflatten(1, (channels, width)).transpose(0, 1)
        return result, *[None] * 5


def _weights(
    ends: torch.Tensor, bins: int, length: int, scale: float, n: int, aligned: bool
) -> torch.Tensor:
    """Weights (R, S, L) of L cells in the bins of RoIs with the given ends (R, 2) along an axis."""
    start, end = (ends * scale - 0.5 * aligned).T[..., None, None]
    extent = end - start if aligned else (end - start).clamp(min=1)
    counts = torch.full_like(extent, n) if n > 0 else (extent / bins).ceil().clamp(min=0)
    steps, places, cells = (
        torch.arange(int(count), dtype=ends.dtype, device=ends.device)
        for count in (counts.max(), bins, length)
    )
    parts = counts.clamp(min=1)
    at = start + (places[:, None] + (steps + 0.5) / parts) * (extent / bins)  # (R, S, n)
    used = ((at >= -1) & (at <= length) & (steps < counts)) / parts
    near = (1 - (at.clamp(0, length - 1)[..., None] - cells).abs()).clamp(min=0)
    return (near * used[..., None]).sum(2)
