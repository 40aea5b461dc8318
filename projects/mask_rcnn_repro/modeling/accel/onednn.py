"""Convolutions and linear layers with what follows fused in, for inference.

On the CPU they use oneDNN's fused kernels, which PyTorch reserves for its compiler. Where those are
missing or give other results (:func:`fused_kernels`), and on other devices, public functions do the
same in two or three steps. The precision is that of the weights, whatever autocast asks for.

Weights of a convolution stay channels-last. oneDNN reorders them in every call, which takes less
than 1 % of its time. Weights that are packed once for one map size can be slower for another.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional

from mask_rcnn_repro.utils.precision import cpu_has_bf16

_ops: Any = torch.ops.mkldnn

Conv = Callable[[torch.Tensor, bool, torch.Tensor | None], torch.Tensor]
Linear = Callable[[torch.Tensor, bool], torch.Tensor]


@functools.cache
def fused_kernels(dtype: torch.dtype) -> bool:
    """Whether oneDNN's fused kernels exist for a type and give the results of PyTorch's own."""
    if dtype not in (torch.float32, torch.bfloat16) or not torch.backends.mkldnn.is_available():
        return False
    try:
        if dtype == torch.bfloat16 and not cpu_has_bf16():
            return False
        return _kernels_agree(dtype)
    except (AttributeError, RuntimeError, TypeError):  # removed, or with other arguments
        return False


def _kernels_agree(dtype: torch.dtype) -> bool:
    generator = torch.Generator().manual_seed(0)
    shapes = ((4, 3, 3, 3), (4,), (1, 3, 5, 6), (1, 4, 5, 6))
    weight, bias, x, add = (torch.randn(shape, generator=generator) for shape in shapes)
    expected = (functional.conv2d(x, weight, bias, padding=1) + add).relu()
    matrix = weight.reshape(-1, 54)[:2].repeat(1, 2)[:, :90]
    flat = x.flatten(1)
    expected_linear = functional.linear(flat, matrix, bias[:2])
    close = functools.partial(torch.allclose, rtol=0.05, atol=0.2)
    if dtype == torch.float32:
        close = functools.partial(torch.allclose, rtol=1e-4, atol=1e-5)
    linear = _onednn_linear(matrix.to(dtype), bias[:2].to(dtype))
    if not close(linear(flat.to(dtype), False).float(), expected_linear):
        return False
    for size in (None, x.shape):
        conv = _onednn_conv(weight.to(dtype), bias.to(dtype), ((1, 1), (1, 1), (1, 1), 1), size)
        if not close(conv(x.to(dtype), True, add.to(dtype)).float(), expected):
            return False
    return True


def fused_conv(
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: tuple[int, ...] = (1, 1),
    padding: tuple[int, ...] = (0, 0),
    dilation: tuple[int, ...] = (1, 1),
    groups: int = 1,
    input_size: Sequence[int] | None = None,
) -> Conv:
    """Returns a convolution with optional addition and ReLU.

    Args:
        weight: (O, C / groups, h, w).
        bias: (O,) or None.
        stride: As in ``nn.Conv2d``, like the next three.
        padding: Zeros at each side.
        dilation: Dilation of the kernel.
        groups: Groups of channels.
        input_size: If given, weights are packed for this size (N, C, H, W) of the map.

    Returns:
        A function of the map (N, C, H, W), whether ReLU comes last, and a map that is added before
        it, or None. The map must have the weights' type, the added map may be overwritten. Returns
        a channels-last map. N may be 0.
    """
    geometry = (stride, padding, dilation, groups)
    if weight.device.type == "cpu" and fused_kernels(weight.dtype):
        return _onednn_conv(weight, bias, geometry, input_size)
    weight = weight.contiguous(memory_format=torch.channels_last)

    def run(x: torch.Tensor, relu: bool, add: torch.Tensor | None) -> torch.Tensor:
        with torch.autocast(x.device.type, enabled=False):
            x = x.contiguous(memory_format=torch.channels_last)
            out = functional.conv2d(x, weight, bias, *geometry)
        if add is not None:
            out = out.add_(add)
        return out.relu_() if relu else out

    return run


def _onednn_conv(
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    geometry: tuple[Any, ...],
    input_size: Sequence[int] | None,
) -> Conv:
    stride, padding, dilation, groups = geometry
    geometry = (padding, stride, dilation, groups)  # oneDNN's order
    if input_size is None:
        weight = weight.contiguous(memory_format=torch.channels_last)
    else:
        weight = _ops._reorder_convolution_weight(weight, *geometry, list(input_size))

    def run(x: torch.Tensor, relu: bool, add: torch.Tensor | None) -> torch.Tensor:
        out: torch.Tensor
        if add is None:
            unary = "relu" if relu else "none"
            out = _ops._convolution_pointwise(x, weight, bias, *geometry, unary, [], "")
        else:
            add = add.contiguous(memory_format=torch.channels_last)
            out = _ops._convolution_pointwise_.binary(
                add, x, weight, bias, *geometry, "add", 1.0, "relu" if relu else None, [], None
            )
        return out

    return run


def fused_linear(weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
    """Returns a linear layer with optional ReLU.

    Args:
        weight: (O, C).
        bias: (O,) or None.

    Returns:
        A function of (N, C), in the weights' type, and whether ReLU comes last. Returns (N, O). N
        may be 0.
    """
    if weight.device.type == "cpu" and fused_kernels(weight.dtype):
        return _onednn_linear(weight, bias)

    def run(x: torch.Tensor, relu: bool) -> torch.Tensor:
        with torch.autocast(x.device.type, enabled=False):
            out = functional.linear(x, weight, bias)
        return out.relu_() if relu else out

    return run


def _onednn_linear(weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
    packed = _ops._reorder_linear_weight(weight)

    def run(x: torch.Tensor, relu: bool) -> torch.Tensor:
        unary = "relu" if relu else "none"
        out: torch.Tensor = _ops._linear_pointwise(x, packed, bias, unary, [], "")
        return out

    return run
