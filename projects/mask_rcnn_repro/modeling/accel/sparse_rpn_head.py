"""RPN head whose backward pass reads only the places with a gradient.

The RPN's loss reads a few hundred sampled anchors of some ten thousand places (Faster R-CNN,
section 3.1.3), so the gradient of the head's output is zero almost everywhere. The backward pass of
convolutions takes a tenth of a training iteration for these zeros. Here gradients are the same sums
without the zeros.

Shapes: N images, C input and D hidden channels, O outputs per place, H x W feature map, L places.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

# With a larger share of places the usual backward pass is faster.
_LARGEST_SHARE = 1 / 8


def rpn_head(
    x: torch.Tensor,
    hidden_weight: torch.Tensor,
    hidden_bias: torch.Tensor,
    out_weight: torch.Tensor,
    out_bias: torch.Tensor,
) -> torch.Tensor:
    """Applies a 3x3 convolution, ReLU and a 1x1 convolution.

    Maps (N, C, H, W) to (N, O, H, W) by weights (D, C, 3, 3) and (O, D, 1, 1). Follows autocast.
    Gradients are summed in float32 (float64 for float64 features). There is no second derivative.
    """
    out: torch.Tensor = _Head.apply(x, hidden_weight, hidden_bias, out_weight, out_bias)
    return out


def merge_1x1(weights: list[torch.Tensor]) -> torch.Tensor:
    """Concatenates (O_i, D, 1, 1) to (sum of O_i, D, 1, 1).

    Gradients get the weights' strides. Others are valid for a 1x1 kernel too, but
    DistributedDataParallel warns about them.
    """
    merged: torch.Tensor = _Merge.apply(*weights)
    return merged


class _Merge(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *weights: torch.Tensor) -> torch.Tensor:
        ctx.layouts = [(weight.shape, weight.stride()) for weight in weights]
        return torch.cat(weights)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
        parts = grad.split([shape[0] for shape, _ in ctx.layouts])
        return tuple(
            part.new_empty_strided(*layout).copy_(part)
            for part, layout in zip(parts, ctx.layouts, strict=True)
        )


class _Head(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Any, hidden_weight: Any, hidden_bias: Any, out_weight: Any, out_bias: Any
    ) -> torch.Tensor:
        hidden = functional.conv2d(x, hidden_weight, hidden_bias, padding=1).relu_()
        ctx.save_for_backward(x, hidden, hidden_weight, out_weight)
        return functional.conv2d(hidden, out_weight, out_bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x = ctx.saved_tensors[0]
        rows = grad.permute(0, 2, 3, 1).reshape(-1, grad.shape[1])
        places = rows.ne(0).any(dim=1).nonzero().squeeze(1)
        if len(places) > len(rows) * _LARGEST_SHARE:
            return _dense(ctx, grad)
        kind = torch.promote_types(x.dtype, torch.float32)
        return _sparse(ctx, rows[places].to(kind), places)


def _sparse(ctx: Any, grad: torch.Tensor, places: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    """Gradients from `grad` (L, O) at `places` (L,), which are numbered through N, H and W."""
    x, hidden, hidden_weight, out_weight = ctx.saved_tensors
    kind = grad.dtype
    channels, height, width = x.shape[1:]
    cells = x.permute(0, 2, 3, 1).reshape(-1, channels)
    at_places = hidden.permute(0, 2, 3, 1).reshape(-1, hidden.shape[1])[places].to(kind)
    grad_out_weight = grad.T @ at_places
    grad_hidden = (grad @ out_weight.flatten(1).to(kind)) * (at_places > 0)

    row, column = places // width % height, places % width
    taps = []  # for each place of the 3x3 window: which of L cells are inside the map, and where
    for i in (-1, 0, 1):
        for j in (-1, 0, 1):
            inside = (row + i >= 0) & (row + i < height) & (column + j >= 0) & (column + j < width)
            which = inside.nonzero().squeeze(1)
            taps.append((which, places[which] + i * width + j))

    seen = torch.zeros(9, len(places), channels, dtype=kind, device=x.device)
    for tap, (which, near) in zip(seen, taps, strict=True):
        tap[which] = cells[near].to(kind)
    grad_hidden_weight = grad_hidden.T @ seen.transpose(0, 1).reshape(-1, 9 * channels)
    grad_hidden_weight = grad_hidden_weight.view(-1, 3, 3, channels).permute(0, 3, 1, 2)

    grad_x = None
    if ctx.needs_input_grad[0]:
        spread = hidden_weight.to(kind).permute(2, 3, 0, 1).reshape(9, -1, channels)
        sums = torch.zeros(cells.shape, dtype=kind, device=x.device)
        for (which, near), part in zip(taps, grad_hidden @ spread, strict=True):
            sums[near] += part[which]  # each cell at most once
        grad_x = sums.to(x.dtype).view(len(x), height, width, channels).permute(0, 3, 1, 2)
    return (
        grad_x,
        grad_hidden_weight.to(hidden_weight.dtype),
        grad_hidden.sum(0).to(hidden_weight.dtype),
        grad_out_weight.reshape(out_weight.shape).to(out_weight.dtype),
        grad.sum(0).to(out_weight.dtype),
    )


def _dense(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    """Gradients from `grad` (N, O, H, W) at all places."""
    x, hidden, hidden_weight, out_weight = ctx.saved_tensors
    kind = hidden.dtype

    def backward(grad: Any, x: torch.Tensor, weight: torch.Tensor, of_x: bool) -> Any:
        side = weight.shape[-1] // 2  # stride 1, then padding, dilation 1, one group
        step = ([1, 1], [side, side], [1, 1], False, [0, 0], 1)
        arguments = (grad, x.to(kind), weight.to(kind), [grad.shape[1]], *step)
        return torch.ops.aten.convolution_backward(*arguments, [of_x, True, True])

    grad_hidden, *grads_out = backward(grad.to(kind), hidden, out_weight, True)
    of_x = ctx.needs_input_grad[0]
    grad_x, *grads_hidden = backward(grad_hidden * (hidden > 0), x, hidden_weight, of_x)
    return (
        None if grad_x is None else grad_x.to(x.dtype),
        *(grad.to(hidden_weight.dtype) for grad in grads_hidden),
        *(grad.to(out_weight.dtype) for grad in grads_out),
    )
