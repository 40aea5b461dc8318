"""Convolutions and linear layers for inference: norm folded in, ReLU and addition fused.

They compute what the layers compute that they are made of, equal up to rounding, in a precision of
their own whatever autocast says. On the CPU wide 3x3 convolutions are
:mod:`~mask_rcnn_repro.modeling.accel.winograd`'s and the rest
:mod:`~mask_rcnn_repro.modeling.accel.onednn`'s; where these are missing, and on other devices,
public functions do the same in two or three steps.

Feature maps leave them channels-last. They hold no parameters: they cannot be trained, moved or
saved.

Shapes: N images or RoIs, C channels, O output channels, H x W feature map.
"""

from __future__ import annotations

import contextlib

import torch
from detectron2.layers import FrozenBatchNorm2d, NaiveSyncBatchNorm
from torch import nn
from torch.nn import functional

from mask_rcnn_repro.modeling.accel.onednn import fused_conv, fused_kernels, fused_linear
from mask_rcnn_repro.modeling.accel.winograd import WinogradWeights
from mask_rcnn_repro.modeling.backbone.norm import FrozenBN


def _no_autocast(x: torch.Tensor) -> contextlib.AbstractContextManager[object]:
    if torch.is_autocast_enabled(x.device.type):
        return torch.autocast(x.device.type, enabled=False)
    return contextlib.nullcontext()


_AFFINE_NORMS = (
    FrozenBN,
    FrozenBatchNorm2d,
    nn.BatchNorm2d,
    nn.SyncBatchNorm,
    NaiveSyncBatchNorm,
)


def norm_as_affine(norm: nn.Module | None) -> tuple[torch.Tensor, torch.Tensor] | None:
    """A norm with fixed statistics as scale and shift of each channel.

    Args:
        norm: A layer in evaluation mode, or None.

    Returns:
        Scale and shift, (C,), float64; None for a norm whose statistics come from its input (group
        norm, batch norm without running ones), and for None.
    """
    # subclasses may compute something else; Detectron2's "BN" and "SyncBN" are these two
    if type(norm) not in _AFFINE_NORMS:
        return None
    assert norm is not None
    if norm.training or norm.running_mean is None or norm._forward_hooks:
        return None
    weight, bias = norm.weight, norm.bias
    mean, variance = norm.running_mean.double(), norm.running_var.double()
    scale = (variance + norm.eps).rsqrt()
    if weight is not None:
        scale = scale * weight.detach().double()
    shift = -mean * scale
    if bias is not None:
        shift = shift + bias.detach().double()
    return scale, shift


def is_relu(activation: object) -> bool:
    """Whether a module, or a function, is the ReLU."""
    if isinstance(activation, nn.Module):
        hooked = activation._forward_hooks or activation._forward_pre_hooks
        return type(activation) is nn.ReLU and not hooked
    return activation in (functional.relu, functional.relu_, torch.relu, torch.relu_)


class FusedConv2d(nn.Module):
    """A convolution with what follows it: norm, addition, ReLU.

    Args:
        weight: (O, C / groups, h, w).
        bias: (O,) or None.
        stride: Of ``nn.Conv2d``, as the next three.
        padding: Zeros at each side.
        dilation: Of the kernel.
        groups: Of the channels.
        relu: Whether a ReLU comes last, unless a call says otherwise.
        norm: A layer that cannot be folded, between convolution and addition.
        dtype: What to compute in, and the type of the result.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        *,
        stride: tuple[int, ...] = (1, 1),
        padding: tuple[int, ...] = (0, 0),
        dilation: tuple[int, ...] = (1, 1),
        groups: int = 1,
        relu: bool = False,
        norm: nn.Module | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.out_channels = weight.shape[0]
        self.relu = relu
        self.norm = norm
        self.dtype = dtype
        exact, exact_bias = weight.detach(), None if bias is None else bias.detach()
        weight = exact.to(dtype)
        bias = None if exact_bias is None else exact_bias.to(dtype)
        geometry = (tuple(stride), tuple(padding), tuple(dilation), groups)
        self._plain = (weight.contiguous(memory_format=torch.channels_last), bias, *geometry)
        on_cpu = weight.device.type == "cpu"
        self._fused = fused_conv(*self._plain) if on_cpu and fused_kernels(dtype) else None
        self._winograd = None
        if WinogradWeights.fits(weight, *geometry):
            self._winograd = WinogradWeights(exact, exact_bias)

    @classmethod
    def of(cls, conv: nn.Conv2d, dtype: torch.dtype, relu: bool = False) -> FusedConv2d:
        """Makes one of a convolution of PyTorch or Detectron2.

        Args:
            conv: Its ``norm``, if any, in evaluation mode; its ``activation`` None or a ReLU.
            dtype: See the class.
            relu: Whether a ReLU comes after it.
        """
        weight, bias, norm = conv.weight.detach(), conv.bias, getattr(conv, "norm", None)
        if (affine := norm_as_affine(norm)) is not None:
            scale, shift = affine
            if bias is not None:
                shift = shift + bias.detach().double() * scale
            bias = shift.to(weight.dtype)
            weight = (weight.double() * scale[:, None, None, None]).to(weight.dtype)
            norm = None
        return cls(
            weight,
            bias,
            stride=conv.stride,
            padding=conv.padding,
            dilation=conv.dilation,
            groups=conv.groups,
            relu=relu or getattr(conv, "activation", None) is not None,
            norm=norm,
            dtype=dtype,
        )

    def forward(
        self, x: torch.Tensor, add: torch.Tensor | None = None, relu: bool | None = None
    ) -> torch.Tensor:
        """Convolves.

        Args:
            x: (N, C, H, W), any floating type; N may be 0.
            add: Added before the ReLU; of the result's shape and type. May be overwritten.
            relu: Whether a ReLU comes last; None: as the constructor was told.

        Returns:
            (N, O, H', W'), channels-last, of the layer's type.
        """
        relu = self.relu if relu is None else relu
        x = x.to(self.dtype)
        if self._winograd is not None and add is None and self._winograd.gains(x):
            if self.norm is None:
                return self._winograd.convolve(x, relu)
            x = self._winograd.convolve(x, False)
        elif self._fused is not None:
            if self.norm is None:
                if add is not None:
                    add = add.contiguous(memory_format=torch.channels_last)
                return self._fused(x, relu, add)
            x = self._fused(x, False, None)
        else:
            with _no_autocast(x):
                x = functional.conv2d(x.contiguous(memory_format=torch.channels_last), *self._plain)
        if self.norm is not None:
            x = self.norm(x).to(self.dtype)
        if add is not None:
            x = x.add_(add)
        return x.relu_() if relu else x

    def extra_repr(self) -> str:
        """For printing a model."""
        return f"out_channels={self.out_channels}, relu={self.relu}, dtype={self.dtype}"


class FusedLinear(nn.Module):
    """A linear layer, perhaps with ReLU, in a precision of its own.

    Args:
        weight: (O, C).
        bias: (O,) or None.
        relu: Whether a ReLU follows.
        dtype: What to compute in, and the type of the result.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        *,
        relu: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.relu = relu
        self.dtype = dtype
        weight = weight.detach().to(dtype)
        bias = None if bias is None else bias.detach().to(dtype)
        on_cpu = weight.device.type == "cpu"
        self._fused = fused_linear(weight, bias) if on_cpu and fused_kernels(dtype) else None
        self._plain = (weight, bias) if self._fused is None else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (N, C) to (N, O) of the layer's type; N may be 0."""
        x = x.to(self.dtype)
        if self._fused is not None:
            return self._fused(x, self.relu)
        assert self._plain is not None
        with _no_autocast(x):
            x = functional.linear(x, *self._plain)
        return x.relu_() if self.relu else x

    def extra_repr(self) -> str:
        """For printing a model."""
        return f"relu={self.relu}, dtype={self.dtype}"


class FusedFlatten(nn.Module):
    """A linear layer on flattened maps that are read as they lie in memory.

    Channels-last maps need not be copied for it: the weights are put in their order once.

    Args:
        weight: (O, C * H * W).
        bias: (O,) or None.
        relu: Whether a ReLU follows.
        dtype: What to compute in, and the type of the result.
    """

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None, *, relu: bool, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self._arguments = (weight.detach(), None if bias is None else bias.detach(), relu, dtype)
        self._made: dict[tuple[int, ...], FusedLinear] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (N, C, H, W), or (N, C * H * W), to (N, O); N may be 0."""
        shape: tuple[int, ...] = ()
        if x.dim() == 4 and not x.is_contiguous():
            shape = tuple(x.shape[1:])
            x = x.permute(0, 2, 3, 1)
        x = x.flatten(1)
        if shape not in self._made:
            weight, bias, relu, dtype = self._arguments
            if shape:
                weight = weight.unflatten(1, shape).permute(0, 2, 3, 1).flatten(1)
            self._made[shape] = FusedLinear(weight, bias, relu=relu, dtype=dtype)
        return self._made[shape](x)
