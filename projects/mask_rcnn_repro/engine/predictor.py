"""Build a model that needs only images from a config and its weights."""

from __future__ import annotations

import os
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from mask_rcnn_repro.config.stored_proposals import keeps_rpn
from mask_rcnn_repro.engine.builders import build_model, resolve_device
from mask_rcnn_repro.engine.checkpoint.checkpointer import SafeCheckpointer
from mask_rcnn_repro.engine.dependencies import find_rpn
from mask_rcnn_repro.errors import CheckpointError, DataError
from mask_rcnn_repro.modeling import StageWiseRCNN
from mask_rcnn_repro.registration import register


def build_predictor(
    cfg: DictConfig,
    checkpoint: str | os.PathLike[str],
    rpn_checkpoint: str | os.PathLike[str] | None = None,
    device: str | torch.device | None = None,
) -> nn.Module:
    """Builds the model of a config in evaluation mode, joined with its RPN if it has none.

    Args:
        cfg: Config as :func:`~mask_rcnn_repro.config.get_config` returns it, stage-wise or joint.
        checkpoint: File of weights.
        rpn_checkpoint: Weights of the RPN. Defaults to those of the run of `train.proposals`.
        device: Device of the model. Defaults to `train.device`.

    Returns:
        A model that maps a list of dicts with ``image`` (and ``height``, ``width`` of the original)
        to detections. It has the method ``inference`` of Detectron2's ``GeneralizedRCNN``.

    Raises:
        CheckpointError: Weights are missing or do not fit.
        ConfigError: See :func:`~mask_rcnn_repro.engine.stages.prepare.prepare`.
    """
    register()
    where = torch.device(device) if device is not None else resolve_device(cfg.train.device)
    model = join_rpn(cfg, _loaded(cfg, where, checkpoint), where, rpn_checkpoint).eval()
    model.register_forward_pre_hook(_check_inputs)
    return model


def _check_inputs(model: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Explains what the model takes to who calls it with an image."""
    if not inputs or not isinstance(inputs[0], list | tuple):
        raise DataError(
            "The model of build_predictor takes a list of dicts, each with `image`: a (C, H, W) "
            "tensor, resized as dataloader.test.mapper does. For files, PIL images and arrays use "
            "mask_rcnn_tools.Predictor(config, checkpoint)."
        )


def join_rpn(
    cfg: DictConfig,
    detector: nn.Module,
    device: torch.device,
    rpn_checkpoint: str | os.PathLike[str] | None = None,
) -> nn.Module:
    """Joins a detector with the RPN that its config names, if it was trained without one.

    Args:
        cfg: Config of the detector.
        detector: Detector with its weights, on `device`.
        device: Device of the RPN.
        rpn_checkpoint: See :func:`build_predictor`, also for errors.

    Returns:
        A :class:`StageWiseRCNN`, or the detector itself if it has an RPN.
    """
    if cfg.train.proposals is None or keeps_rpn(cfg):
        return detector
    rpn = find_rpn(cfg, device)
    weights = rpn.checkpoint if rpn_checkpoint is None else rpn_checkpoint
    if rpn_checkpoint is None and not rpn.checkpoint.is_file():
        raise CheckpointError(
            f"The RPN {rpn.config_id}, on whose proposals this model was trained, has no weights "
            f"in {rpn.folder}. Train it, set train.output_root, or give rpn_checkpoint."
        )
    counts = rpn.cfg.model.proposal_generator.post_nms_topk
    counts[1] = min(counts[1], cfg.dataloader.test.mapper.precomputed_proposal_topk)
    return StageWiseRCNN(_loaded(rpn.cfg, device, weights), detector)


def _loaded(cfg: DictConfig, device: torch.device, path: str | os.PathLike[str]) -> nn.Module:
    model = build_model(cfg, device)
    SafeCheckpointer(model).load(os.fspath(path), checkpointables=[], policy="exact")
    return model.eval()
