"""Build the objects of a run from its config: device, model, optimizer, schedule, loader."""

from __future__ import annotations

import copy
import logging
from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.engine import create_ddp_model
from detectron2.layers import FrozenBatchNorm2d
from detectron2.solver import LRMultiplier
from detectron2.utils import comm
from detectron2.utils.registry import locate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.modeling.gpu_training import speed_up_training

logger = logging.getLogger(__name__)

_FUSED_OPTIMIZERS = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
_ONEDNN_BLOCK = 16  # channels that oneDNN processes at once with AVX-512; 8 with AVX2
_CHOOSES_LOOP = ("fused", "foreach", "capturable", "differentiable")


def resolve_device(name: str) -> torch.device:
    """Returns the device for `train.device`. "auto" is CUDA if available, otherwise the CPU.

    Raises:
        ConfigError: If a CUDA device is asked for that does not exist here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    fits_several = device.index is None and (device.type == "cpu") != torch.cuda.is_available()
    if comm.get_world_size() > 1 and not fits_several:
        raise ConfigError(
            f"train.device is {name!r}, but several processes take a GPU each, or the CPU where "
            "there is none. Use train.device=auto; to run them on the CPU of a machine with GPUs, "
            "set CUDA_VISIBLE_DEVICES=''."
        )
    if device.type != "cuda":
        return device
    if not torch.cuda.is_available():
        raise ConfigError(
            f"train.device is {name!r}, but torch {torch.__version__} finds no CUDA device here. "
            "Use train.device=auto or train.device=cpu."
        )
    # each of several processes has its own GPU as the current device
    index = torch.cuda.current_device() if device.index is None else device.index
    if index >= torch.cuda.device_count():
        raise ConfigError(
            f"train.device is {name!r}, but this machine has {torch.cuda.device_count()} CUDA "
            "devices, numbered from 0."
        )
    torch.cuda.set_device(index)  # torch.cuda.synchronize() without argument waits for this one
    return torch.device("cuda", index)


def build_model(cfg: DictConfig, device: torch.device) -> nn.Module:
    """Builds `cfg.model` on `device` and applies `train.freeze` and `train.channels_last`.

    On the CPU models are channels-last, which is faster and equal up to rounding. Only very narrow
    models are not, see :func:`_breaks_onednn`.

    Raises:
        ConfigError: If `train.freeze` names something that is not a module of the model.
    """
    model = instantiate(cfg.model)
    for name in cfg.train.freeze:
        freeze_module(model, name)
    model = model.to(device)
    if device.type == "cuda":
        speed_up_training(model)
    on_cpu = device.type == "cpu"
    if (cfg.train.channels_last or on_cpu) and not (on_cpu and _breaks_onednn(model)):
        model = model.to(memory_format=torch.channels_last)
    return model


def _breaks_onednn(model: nn.Module) -> bool:
    """Returns whether a strided 1 x 1 convolution has fewer input channels than a oneDNN block.

    With channels-last maps and three or more threads, the gradient of its weights then writes
    beyond its workspace, which ends the process (oneDNN's issue 6035).
    """
    return any(
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and module.stride != (1, 1)
        and module.in_channels < _ONEDNN_BLOCK
        for module in model.modules()
    )


def freeze_module(model: nn.Module, name: str) -> None:
    """Freezes weights and batch norm statistics of the module `name`, such as "backbone", in place.

    Raises:
        ConfigError: If there is no such module.
    """
    parent_name, _, child_name = name.rpartition(".")
    try:
        if not name:
            raise AttributeError
        parent, module = model.get_submodule(parent_name), model.get_submodule(name)
    except AttributeError:
        known = ", ".join(child for child, _ in model.named_children())
        raise ConfigError(
            f"train.freeze names {name!r}, which is no module of the model; it has {known} and "
            "their parts."
        ) from None
    setattr(parent, child_name, FrozenBatchNorm2d.convert_frozen_batchnorm(module))
    parent.get_submodule(child_name).requires_grad_(False)


def wrap_distributed(model: nn.Module, cfg: DictConfig, device: torch.device) -> nn.Module:
    """Wraps the model for several processes; Detectron2 alone would pass `device_ids` on CPU."""
    return create_ddp_model(
        model,
        device_ids=[device.index] if device.type == "cuda" else None,
        **OmegaConf.to_container(cfg.train.ddp, resolve=True),
    )


def build_optimizer(cfg: DictConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Builds `cfg.optimizer` for `model`.

    With `train.scale_lr`, `optimizer.lr` is for `train.reference_batch_size` images per iteration
    and is multiplied by `dataloader.train.total_batch_size / train.reference_batch_size`.

    PyTorch's optimizers run fused, which is the same arithmetic in one pass over the weights,
    unless the config sets `fused`, `foreach`, `capturable` or `differentiable`.
    """
    node = copy.deepcopy(cfg.optimizer)
    node.params.model = model
    if _may_run_fused(node, model):
        OmegaConf.update(node, "fused", True, force_add=True)
    if cfg.train.scale_lr:
        batch, reference = cfg.dataloader.train.total_batch_size, cfg.train.reference_batch_size
        old = node.lr
        node.lr = old * batch / reference
        logger.info(
            "Learning rate scaled linearly: %g for %d images -> %g for %d images.",
            *(old, reference, node.lr, batch),
        )
    return instantiate(node)


def _may_run_fused(node: DictConfig, model: nn.Module) -> bool:
    """Returns whether the config leaves the implementation open and all weights support fused."""
    target = locate(node._target_) if isinstance(node._target_, str) else node._target_
    if target not in _FUSED_OPTIMIZERS or any(key in node for key in _CHOOSES_LOOP):
        return False
    return all(
        p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in model.parameters()
    )


def build_scheduler(cfg: DictConfig, optimizer: torch.optim.Optimizer) -> LRMultiplier:
    """Builds the per-iteration learning rate scheduler from `cfg.lr_multiplier`."""
    # an evaluation of initial weights has no iterations; the multiplier divides by them
    length = max(cfg.train.max_iter, 1)
    return LRMultiplier(optimizer, instantiate(cfg.lr_multiplier), max_iter=length)


def build_train_data(cfg: DictConfig, start_iteration: int) -> Any:
    """Builds the endless training loader, which begins with the batch of `start_iteration`."""
    node = copy.deepcopy(cfg.dataloader.train)
    OmegaConf.update(node, "seed", cfg.train.seed)
    OmegaConf.update(node, "accumulate", cfg.train.accumulate)
    OmegaConf.update(node, "start_iteration", start_iteration)
    return instantiate(node)


def check_batch_size(cfg: DictConfig, world_size: int | None = None) -> None:
    """Checks that processes and accumulation steps can share a batch evenly.

    Args:
        cfg: A validated config.
        world_size: Number of processes. Defaults to that of this run.

    Raises:
        ConfigError: If `total_batch_size` is not a multiple of processes times accumulation.
    """
    batch, world = cfg.dataloader.train.total_batch_size, world_size or comm.get_world_size()
    parts = world * cfg.train.accumulate
    if batch % parts:
        raise ConfigError(
            f"dataloader.train.total_batch_size is {batch}, which {world} process(es) with "
            f"train.accumulate={cfg.train.accumulate} cannot share evenly. Use a multiple of "
            f"{parts}; with another batch, train.scale_lr=true adapts the learning rate."
        )
