"""Converts a trained detector for faster inference, with the same outputs up to rounding.

| part | change |
|---|---|
| convolutions | FrozenBN and batch norm folded in, ReLU fused, maps channels-last |
| wide 3x3 convolutions | a quarter of the products (Winograd), on the CPU |
| residual blocks, FPN | addition fused |
| RPN head | objectness and deltas from one 1x1 convolution |
| box head | linear layers packed, ReLU fused, no copy to flatten RoI features |
| mask head | only the predicted class's mask, unless classes compete (softmax) |

Modules that are not of PyTorch, Detectron2 or this project stay unchanged, and so do modules with
hooks or unusual parts. In blocks, FPN and heads inside such a module (for example a user's subclass
of Detectron2's ResNet) convolutions are fused one by one, since the module may call them itself.
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

from mask_rcnn_repro.modeling.backbone.norm import FoldedConv2d
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
from mask_rcnn_repro.modeling.rpn import PaperRPNHead

_KNOWN_PACKAGES = frozenset({"torch", "detectron2", "mask_rcnn_repro"})
_CONVS = (nn.Conv2d, Conv2d, FoldedConv2d)
_LAYERS = (*_CONVS, nn.Linear)
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def optimize_for_inference(model: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Converts a trained model for inference.

    Works on any model of Detectron2's and this project's parts: detectors with and without RPN,
    RPN stages, :class:`~mask_rcnn_repro.modeling.StageWiseRCNN`, and test-time augmentation of
    them.

    Args:
        model: A model with its weights, in float32. It is not changed. The new model shares the
            weights that it uses unchanged and computes the others now. Convert again after further
            training.
        dtype: ``torch.float32`` gives the model's outputs up to rounding. In ``torch.bfloat16`` (or
            ``float16`` on a GPU) convolutions and hidden layers compute in that type; the RPN's
            outputs, class scores and box deltas stay float32. Run the model under autocast of the
            same type, for the layers that stay unchanged.

    Returns:
        A model in evaluation mode with the same interface. It cannot be trained, saved or moved to
        another device.
    """
    if isinstance(model, nn.parallel.DistributedDataParallel):
        model = model.module
    tensors = (*model.parameters(), *model.buffers())
    shared = {id(tensor): tensor for tensor in tensors}  # deepcopy takes these for copied
    with torch.no_grad():
        # norms are folded in evaluation mode only, and new modules start in training mode
        return _Optimizer(dtype).optimized(copy.deepcopy(model, memo=shared).eval()).eval()


def runs_in_threads(model: nn.Module) -> bool:
    """Whether several threads may call the model at once, in evaluation mode.

    True if all modules are of PyTorch, Detectron2 or this project, which store no activations, and
    none has hooks.
    """
    return all(
        type(module).__module__.partition(".")[0] in _KNOWN_PACKAGES and not _is_watched(module)
        for module in model.modules()
    )


class _Optimizer:
    """Converts a copy of a model; a module that is used twice is replaced by one module."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._known = True  # whether the parent module is of a known package
        self._done: dict[nn.Module, nn.Module] = {}

    def optimized(self, module: nn.Module) -> nn.Module:
        """Returns the module's replacement, or the module itself with its children converted."""
        if module not in self._done:
            new = self._replacement(module)
            self._done[module] = self._done[new] = new
            self._change_children(new)
        return self._done[module]

    def _replacement(self, module: nn.Module) -> nn.Module:
        """Returns the module or a replacement, whose children are not converted yet."""
        kind, dtype = type(module), self.dtype
        if any(map(_is_watched, module.modules())):
            return module
        if kind in _CONVS:
            return FusedConv2d.of(module, dtype) if _is_plain(module) else module
        if kind is nn.Linear:
            return FusedLinear(module.weight, module.bias, dtype=dtype)
        if not self._known:  # the parent may read parts of the module, or a mask head's logits
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
        # an unknown module may read more of a layer than its output, also in a container; so may
        # modules of PyTorch: attention reads the weights of its linear layers
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
        if type(module) is FPN:  # calls its convolutions through lists beside its children
            for name in ("lateral_convs", "output_convs"):
                convs = getattr(module, name)
                setattr(module, name, [self._done.get(conv, conv) for conv in convs])
        self.dtype, self._known = before, known_before

    def _fuse_sequence(self, sequence: nn.Sequential) -> None:
        """Fuses consecutive flatten, linear and ReLU layers, and consecutive convolution and ReLU.

        Children keep their names; fused ones are replaced by identities.
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
    """Whether a module has hooks, which may read or change activations (as spectral norm does)."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _is_plain(conv: nn.Module, bare: bool = False) -> bool:
    """Whether a module is a convolution that can be fused; `bare`: and has no activation."""
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
