"""Checks whether a model can be exported."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import (
    CascadeROIHeads,
    FastRCNNOutputLayers,
    Res5ROIHeads,
    StandardROIHeads,
)
from omegaconf import DictConfig, OmegaConf
from torch import nn

from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.modeling import StageWiseRCNN
from mask_rcnn_tools.export.formats import SUFFIXES

_PACKAGES = {"onnx": ("onnx", "onnxruntime"), "torch_export": (), "torchscript": ()}


def check_request(cfg: DictConfig, kind: str, output: Path) -> None:
    """Checks the request before the model is built.

    Args:
        cfg: The config.
        kind: One of `SUFFIXES`.
        output: Output file.

    Raises:
        ConfigError: The model or the output file is not supported.
    """
    if output.suffix not in SUFFIXES[kind]:
        raise ConfigError(
            f"--output {output} has the suffix {output.suffix!r}; a file of format {kind} ends in "
            f"{' or '.join(SUFFIXES[kind])}."
        )
    if not output.parent.is_dir():
        raise ConfigError(f"The directory of --output {output} does not exist. Create it first.")
    missing = [name for name in _PACKAGES[kind] if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"Format {kind} needs the package(s) {', '.join(missing)}, which are not installed: "
            f"pip install {' '.join(missing)}"
        )
    if cfg.train.tta.enabled:
        raise ConfigError(
            "Test-time augmentation cannot be exported: a file takes one image at one size. Set "
            "train.tta.enabled=false."
        )
    if OmegaConf.select(cfg, "model.roi_heads") is None:
        raise ConfigError(
            "This config is an RPN stage without detections. Export a detector that uses it; the "
            "file contains its RPN."
        )


def check_model(model: nn.Module) -> None:
    """Checks that the graph supports the types of all parts that it replaces.

    Raises:
        ConfigError: A part is not supported.
    """
    stagewise = isinstance(model, StageWiseRCNN)
    detector: Any = model.detector if stagewise else model
    rpn: Any = model.rpn if stagewise else model
    if not isinstance(detector, GeneralizedRCNN):
        raise _unknown("model", detector, "GeneralizedRCNN")
    _require("model.proposal_generator", rpn.proposal_generator, RPN)
    generator = rpn.proposal_generator
    anchors = generator.anchor_generator
    _require("model.proposal_generator.anchor_generator", anchors, DefaultAnchorGenerator)
    _require(
        "model.proposal_generator.box2box_transform", generator.box2box_transform, Box2BoxTransform
    )
    for network in (rpn, detector):
        if network.backbone.padding_constraints.get("square_size", 0):
            raise ConfigError(
                "The backbone needs images padded to a square, which the exported graph does not "
                "support. Export a backbone that takes any size."
            )
    heads = detector.roi_heads
    if isinstance(heads, CascadeROIHeads) or not isinstance(
        heads, (StandardROIHeads, Res5ROIHeads)
    ):
        raise _unknown("model.roi_heads", heads, "StandardROIHeads, Res5ROIHeads")
    predictor = heads.box_predictor
    _require("model.roi_heads.box_predictor", predictor, FastRCNNOutputLayers)
    transform = predictor.box2box_transform
    _require("model.roi_heads.box_predictor.box2box_transform", transform, Box2BoxTransform)
    for name in ("pooler", "box_pooler", "mask_pooler", "keypoint_pooler"):
        pooler = getattr(heads, name, None)
        if pooler is not None:
            _require(f"model.roi_heads.{name}", pooler, ROIPooler)


def _require(key: str, part: Any, *kinds: type) -> None:
    if not isinstance(part, kinds):
        raise _unknown(key, part, ", ".join(kind.__name__ for kind in kinds))


def _unknown(key: str, part: Any, known: str) -> ConfigError:
    return ConfigError(
        f"{key} is a {type(part).__name__}, which cannot be exported. Supported are subclasses of "
        f"{known}."
    )
