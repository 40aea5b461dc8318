"""oneDNN's convolution and linear layer with what follows fused in, for inference on the CPU.

PyTorch keeps these operators for its own compiler. Where they are missing or do not answer right,
:func:`fused_kernels` says no, and callers do the same with public functions in two or three steps.

Weights of a convolution stay as they are, channels-last: oneDNN brings them into the form that it
wants on every call, which costs less than a hundredth. Packed once, for another size of the map
than a call has, they can come in a form that takes longer to undo than the convolution does.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional

_ops: Any = torch.ops.mkldnn

Conv = Callable[[torch.Tensor, bool, torch.Tensor | None], torch.Tensor]
Linear = Callable[[torch.Tensor, bool], torch.Tensor]


@functools.cache
def fused_kernels(dtype: torch.dtype) -> bool:
    """Whether oneDNN's fused kernels exist here for a type, and give what PyTorch's own give."""
    if dtype not in (torch.float32, torch.bfloat16) or not torch.backends.mkldnn.is_available():
        return False
    try:
        if dtype == torch.bfloat16 and not _ops._is_mkldnn_bf16_supported():
            return False
        return _kernels_agree(dtype)
    except (AttributeError, RuntimeError, TypeError):  # gone, or other arguments by now
        return False


def _kernels_agree(dtype: torch.dtype) -> bool:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 3, 3, 3, generator=generator)
    bias = torch.randn(4, generator=generator)
    x = torch.randn(1, 3, 5, 6, generator=generator)
    add = torch.randn(1, 4, 5, 6, generator=generator)
    expected = (functional.conv2d(x, weight, bias, padding=1) + add).relu()
    matrix = weight.reshape(-1, 54)[:2].repeat(1, 2)[:, :90]
    flat = x.flatten(1)
    expected_linear = functional.linear(flat, matrix, bias[:2])
    close = functools.partial(torch.allclose, rtol=0.05, atol=0.2)
    if dtype == torch.float32:
        close = functools.partial(torch.allclose, rtol=1e-4, atol=1e-5)
    linear = fused_linear(matrix.to(dtype), bias[:2].to(dtype))
    if not close(linear(flat.to(dtype), False).float(), expected_linear):
        return False
    for size in (None, x.shape):
        conv = fused_conv(weight.to(dtype), bias.to(dtype), padding=(1, 1), input_size=size)
        added = add.to(dtype, memory_format=torch.channels_last)
        if not close(conv(x.to(dtype), True, added).float(), expected):
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
    """A convolution that may add and apply ReLU.

    Args:
        weight: (O, C / groups, h, w), float32 or bfloat16.
        bias: (O,) or None.
        stride: Of ``nn.Conv2d``, as the next three.
        padding: Zeros at each side.
        dilation: Of the kernel.
        groups: Of the channels.
        input_size: The only size (N, C, H, W) that matters, for which weights are packed.

    Returns:
        A function of the map (N, C, H, W), whether ReLU comes last, and a channels-last map that is
        added before it, in place, or None; it gives a channels-last map. N may be 0.
    """
    geometry = (padding, stride, dilation, groups)
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
            out = _ops._convolution_pointwise_.binary(
                add, x, weight, bias, *geometry, "add", 1.0, "relu" if relu else None, [], None
            )
        return out

    return run


def fused_linear(weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
    """A linear layer that may apply ReLU.

    Args:
        weight: (O, C), float32 or bfloat16.
        bias: (O,) or None.

    Returns:
        A function of (N, C), where N may be 0, and whether ReLU comes last; it gives (N, O).
    """
    packed = _ops._reorder_linear_weight(weight)

    def run(x: torch.Tensor, relu: bool) -> torch.Tensor:
        out: torch.Tensor = _ops._linear_pointwise(
            x, packed, bias, "relu" if relu else "none", [], ""
        )
        return out

    return run
