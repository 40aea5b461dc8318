"""A trained detector made faster for inference, with the same outputs up to rounding.

| part | what is done |
|---|---|
| convolutions | FrozenBN and batch norm folded in, ReLU fused, maps channels-last |
| 3x3 convolutions | wide ones with a quarter of the products (Winograd), on the CPU |
| residual blocks, FPN | the addition fused as well |
| RPN head | objectness and deltas from one 1x1 convolution |
| box head | linear layers packed, ReLU fused; no copy of the RoI features to flatten them |
| mask head | the predicted class's mask alone, unless classes compete (softmax) |

What is neither PyTorch's, Detectron2's nor this project's stays as it is, and so does what has
hooks or unusual parts. Of blocks, FPN and heads that such a module holds (a user's subclass of
Detectron2's ResNet, say), convolutions are fused one by one, as it may call them itself.
"""

from __future__ import annotations

import copy

import torch
from detectron2.layers import Conv2d
from detectron2.modeling.backbone import FPN, BasicStem
from detectron2.modeling.backbone.resnet import BasicBlock, BottleneckBlock
from detectron2.modeling.proposal_generator.rpn import StandardRPNHead
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from torch import nn

from mask_rcnn_repro.modeling.inference.fused_blocks import (
    FusedFPN,
    FusedResidual,
    FusedRPNHead,
    FusedStem,
)
from mask_rcnn_repro.modeling.inference.fused_layers import (
    FusedConv2d,
    FusedFlatten,
    FusedLinear,
    is_relu,
)
from mask_rcnn_repro.modeling.inference.fused_mask_heads import FusedFCNHead, FusedMLPHead
from mask_rcnn_repro.modeling.rpn_head import PaperRPNHead

_KNOWN_PACKAGES = frozenset({"torch", "detectron2", "mask_rcnn_repro"})
_CONVS = (nn.Conv2d, Conv2d)
_LAYERS = (*_CONVS, nn.Linear)
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def optimize_for_inference(model: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Makes a model for inference of a trained one.

    Works on any model of Detectron2's and this project's parts: detectors with and without RPN,
    RPN stages, :class:`~mask_rcnn_repro.modeling.StageWiseRCNN`, test-time augmentation around
    them.

    Args:
        model: With its weights, in float32. It is not changed, and may be trained on: what the new
            model holds of its weights as they are is shared, the rest is computed from them now,
            so that training makes it stale.
        dtype: ``torch.float32`` gives what the model gives, up to rounding. In ``torch.bfloat16``
            (or ``float16`` on a GPU) convolutions and hidden layers compute in that type; the
            RPN's outputs, class scores and box deltas still in float32. Run it under autocast of
            the same type, for the layers that stay as they are.

    Returns:
        A model in evaluation mode, called as the given one is. It cannot be trained, saved or moved
        to another device.
    """
    if isinstance(model, nn.parallel.DistributedDataParallel):
        model = model.module
    tensors = (*model.parameters(), *model.buffers())
    shared = {id(tensor): tensor for tensor in tensors}  # what deepcopy takes for copied
    with torch.no_grad():
        # norms are folded in evaluation mode, and new modules begin in training mode
        return _Optimizer(dtype).optimized(copy.deepcopy(model, memo=shared).eval()).eval()


def runs_in_threads(model: nn.Module) -> bool:
    """Whether several threads may call the model at once, in evaluation mode.

    So they may where all modules are PyTorch's, Detectron2's or this project's, which keep nothing
    of what goes through, and no hook looks at it.
    """
    return all(
        type(module).__module__.partition(".")[0] in _KNOWN_PACKAGES and not _is_watched(module)
        for module in model.modules()
    )


class _Optimizer:
    """Goes through a copy of a model; a module in two places is replaced by one module."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._known = True  # whether what holds the module, or container, is
        self._done: dict[nn.Module, nn.Module] = {}

    def optimized(self, module: nn.Module) -> nn.Module:
        """What takes the module's place, or itself with its children changed."""
        if module not in self._done:
            new = self._replacement(module)
            self._done[module] = self._done[new] = new
            self._change_children(new)
        return self._done[module]

    def _replacement(self, module: nn.Module) -> nn.Module:
        """The module, or one that computes the same; its children have yet to be looked at."""
        kind, dtype = type(module), self.dtype
        if any(map(_is_watched, module.modules())):
            return module
        if kind in _CONVS:
            return FusedConv2d.of(module, dtype) if _is_plain(module) else module
        if kind is nn.Linear:
            return FusedLinear(module.weight, module.bias, dtype=dtype)
        if not self._known:  # it may read a part of this one, or ask a mask head for its logits
            return module
        if kind is BasicStem and _is_plain(module.conv1, bare=True):
            return FusedStem(module, dtype)
        if kind in (BasicBlock, BottleneckBlock) and _has_plain_convs(module, bare=True):
            return FusedResidual(module, dtype)
        if kind in (StandardRPNHead, PaperRPNHead) and _has_plain_convs(module):
            return FusedRPNHead(module, dtype)
        if kind is FPN and module._fuse_type == "sum":
            convs = (*module.lateral_convs, *module.output_convs)
            return FusedFPN(module, dtype) if all(_is_plain(c, True) for c in convs) else module
        if FusedFCNHead.fits(module) and all(map(_is_plain, module.conv_norm_relus)):
            return FusedFCNHead(module, dtype)
        if FusedMLPHead.fits(module):
            return FusedMLPHead(module, dtype)
        return module

    def _change_children(self, module: nn.Module) -> None:
        # an unknown module may look at more of a layer than what the layer computes, also where it
        # keeps it in a container; so do PyTorch's own, of which attention takes the weights
        before, known_before = self.dtype, self._known
        if type(module) not in _CONTAINERS:
            package = type(module).__module__.partition(".")[0]
            self._known = package in _KNOWN_PACKAGES and package != "torch"
        known = self._known and not _is_watched(module)
        if known and isinstance(module, nn.Sequential):
            self._fuse_sequence(module)
        if isinstance(module, FastRCNNOutputLayers):
            self.dtype = torch.promote_types(before, torch.float32)
        for name, child in module.named_children():
            if type(child) not in _LAYERS or known:
                new = self.optimized(child)
                if new is not child:
                    setattr(module, name, new)
        if type(module) is FPN:  # which calls them by lists beside its children
            for name in ("lateral_convs", "output_convs"):
                convs = getattr(module, name)
                setattr(module, name, [self._done.get(conv, conv) for conv in convs])
        self.dtype, self._known = before, known_before

    def _fuse_sequence(self, sequence: nn.Sequential) -> None:
        """Fuses flattening, linear layer and ReLU that follow each other, and conv and ReLU.

        Names and number of the children stay, with identities in place of what went into others.
        """
        names = list(sequence._modules)
        for index, name in enumerate(names):
            layer = sequence._modules[name]
            if type(layer) not in _LAYERS or _is_watched(layer):
                continue
            after = names[index + 1] if index + 1 < len(names) else None
            relu = after is not None and is_relu(sequence._modules[after])
            before = names[index - 1] if index > 0 else None
            flatten = before is not None and _is_flatten(sequence._modules[before])
            if type(layer) is nn.Linear and (relu or flatten):
                make = FusedFlatten if flatten else FusedLinear
                new = make(layer.weight, layer.bias, relu=relu, dtype=self.dtype)
            elif type(layer) in _CONVS and relu and _is_plain(layer):
                new, flatten = FusedConv2d.of(layer, self.dtype, relu=True), False
            else:
                continue
            setattr(sequence, name, new)
            if relu and after is not None:
                setattr(sequence, after, nn.Identity())
            if flatten and before is not None:
                setattr(sequence, before, nn.Identity())


def _is_watched(module: nn.Module) -> bool:
    """Whether hooks look at what goes through, or change it (spectral norm, say)."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _is_plain(conv: nn.Module, bare: bool = False) -> bool:
    """Whether it is a convolution that can be fused; `bare`: with no activation of its own."""
    if type(conv) not in _CONVS or conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        return False
    activation = getattr(conv, "activation", None)
    return activation is None or (is_relu(activation) and not bare)


def _has_plain_convs(module: nn.Module, bare: bool = False) -> bool:
    return all(_is_plain(m, bare) for m in module.modules() if isinstance(m, nn.Conv2d))


def _is_flatten(module: nn.Module | None) -> bool:
    if not isinstance(module, nn.Flatten) or _is_watched(module):
        return False
    return (module.start_dim, module.end_dim) == (1, -1)
