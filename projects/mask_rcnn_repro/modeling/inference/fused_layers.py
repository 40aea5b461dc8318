"""Convolutions and linear layers for inference: norm folded in, ReLU and addition fused.

Results equal those of the original layers up to rounding. The layers compute in a precision of
their own, whatever autocast asks for. Wide 3x3 convolutions on the CPU use
:mod:`~mask_rcnn_repro.modeling.accel.winograd`, all others
:mod:`~mask_rcnn_repro.modeling.accel.onednn`.

Outputs are channels-last. The layers have no parameters and cannot be trained, moved or saved.

Shapes: N images or RoIs, C channels, O output channels, H x W feature map.
"""

from __future__ import annotations

from typing import Any

import torch
from detectron2.layers import FrozenBatchNorm2d, NaiveSyncBatchNorm
from torch import nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_weights

from mask_rcnn_repro.modeling.accel.onednn import fused_conv, fused_linear
from mask_rcnn_repro.modeling.accel.winograd import WinogradWeights

# Subclasses may compute something else. Detectron2's "BN" and "SyncBN" are the last two.
_AFFINE_NORMS = (FrozenBatchNorm2d, nn.BatchNorm2d, nn.SyncBatchNorm, NaiveSyncBatchNorm)


def _is_affine(norm: Any) -> bool:
    """Whether a norm has fixed statistics and no hooks."""
    return (
        type(norm) in _AFFINE_NORMS
        and not norm.training
        and norm.running_mean is not None
        and not norm._forward_hooks
    )


def _detached(x: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    return None if x is None else x.detach().to(dtype)


def is_relu(activation: object) -> bool:
    """Whether a module or function is a ReLU without hooks."""
    if isinstance(activation, nn.Module):
        hooked = activation._forward_hooks or activation._forward_pre_hooks
        return type(activation) is nn.ReLU and not hooked
    return activation in (functional.relu, functional.relu_, torch.relu, torch.relu_)


class FusedConv2d(nn.Module):
    """A convolution followed by norm, addition and ReLU, each optional.

    Args:
        weight: (O, C / groups, h, w).
        bias: (O,) or None.
        stride: As in ``nn.Conv2d``, like the next three.
        padding: Zeros at each side.
        dilation: Dilation of the kernel.
        groups: Groups of channels.
        relu: Whether a ReLU comes last.
        norm: A layer between convolution and addition that cannot be folded.
        dtype: Type of computation and result.
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
        self.relu = relu
        self.norm = norm
        self.dtype = dtype
        weight = weight.detach()
        geometry = (tuple(stride), tuple(padding), tuple(dilation), groups)
        self._conv = fused_conv(weight.to(dtype), _detached(bias, dtype), *geometry)
        self._winograd = None
        if WinogradWeights.fits(weight.to(dtype), *geometry):
            self._winograd = WinogradWeights(weight, None if bias is None else bias.detach())

    @classmethod
    def of(cls, conv: nn.Conv2d, dtype: torch.dtype, relu: bool = False) -> FusedConv2d:
        """Converts a convolution of PyTorch or Detectron2; a norm with fixed statistics is folded.

        Args:
            conv: Its ``norm``, if any, in evaluation mode; its ``activation`` None or a ReLU.
            dtype: See the class.
            relu: Whether a ReLU follows it.
        """
        weight, bias = conv.weight.detach(), conv.bias
        norm: Any = getattr(conv, "norm", None)
        if _is_affine(norm):
            statistics = (norm.running_mean, norm.running_var)
            exact = [_detached(x, torch.float64) for x in (weight, bias, *statistics)]
            affine = [_detached(x, torch.float64) for x in (norm.weight, norm.bias)]
            folded = fuse_conv_bn_weights(*exact, norm.eps, *affine)
            weight, bias = (x.detach().to(weight.dtype) for x in folded)
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

    def forward(self, x: torch.Tensor, add: torch.Tensor | None = None) -> torch.Tensor:
        """Convolves.

        Args:
            x: (N, C, H, W), any floating type; N may be 0.
            add: Added before the ReLU; of the result's shape and type. May be overwritten.

        Returns:
            (N, O, H', W'), channels-last, of the layer's type.
        """
        x = x.to(self.dtype)
        relu = self.relu and self.norm is None
        if self._winograd is not None and add is None and self._winograd.gains(x):
            x = self._winograd.convolve(x, relu)
        else:
            x = self._conv(x, relu, add if self.norm is None else None)
        if self.norm is None:
            return x
        x = self.norm(x).to(self.dtype)
        if add is not None:
            x = x.add_(add)
        return x.relu_() if self.relu else x


class FusedLinear(nn.Module):
    """A linear layer with optional ReLU, in a precision of its own.

    Args:
        weight: (O, C).
        bias: (O,) or None.
        relu: Whether a ReLU follows.
        dtype: Type of computation and result.
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
        self._linear = fused_linear(weight.detach().to(dtype), _detached(bias, dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (N, C) to (N, O) of the layer's type; N may be 0."""
        return self._linear(x.to(self.dtype), self.relu)


class FusedFlatten(nn.Module):
    """A linear layer on flattened maps, which reorders its weights instead of channels-last maps.

    Arguments are those of :class:`FusedLinear`, with a weight (O, C * H * W).
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
