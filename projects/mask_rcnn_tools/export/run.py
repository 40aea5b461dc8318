"""Exporting a model and comparing the file with it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import nn

from mask_rcnn_repro.engine.dependencies import find_rpn
from mask_rcnn_repro.engine.predictor import build_predictor
from mask_rcnn_repro.modeling import StageWiseRCNN
from mask_rcnn_tools.export.compare import ImageComparison, compare_outputs, format_comparisons
from mask_rcnn_tools.export.formats import WRITERS, Run, open_exported, smallest_side
from mask_rcnn_tools.export.graph import DetectorGraph
from mask_rcnn_tools.export.images import comparison_images
from mask_rcnn_tools.export.keypoint_decoding import decode_keypoints, map_keypoints
from mask_rcnn_tools.export.metadata import describe
from mask_rcnn_tools.export.support import check_model, check_request


@dataclass(frozen=True)
class Exported:
    """What was exported.

    Attributes:
        equal: Whether the file gives what the model gives; otherwise it is not kept.
        report: The comparison as a table.
        detections: Of the model, over all images compared.
    """

    equal: bool
    report: str
    detections: int


def export_detector(
    cfg: DictConfig,
    checkpoint: str | os.PathLike[str],
    output: str | os.PathLike[str],
    kind: str,
    *,
    config_id: str,
    rpn_checkpoint: str | os.PathLike[str] | None = None,
    paste_masks: bool = False,
    images: Sequence[str] = (),
    num_images: int = 4,
    overrides: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> Exported:
    """Writes a trained detector as one file, which appears only if it gives what the model gives.

    Args:
        cfg: The validated config.
        checkpoint: Weights.
        output: The file.
        kind: `torch_export`, `torchscript` or `onnx`.
        config_id: For the metadata.
        rpn_checkpoint: See :func:`~mask_rcnn_repro.build_predictor`.
        paste_masks: See :class:`DetectorGraph`.
        images: Files to compare on; see :func:`comparison_images`.
        num_images: See :func:`comparison_images`.
        overrides: For the metadata.
        say: Takes lines of progress.

    Raises:
        CheckpointError: Weights that are missing or do not fit.
        ConfigError: See :func:`check_request` and :func:`check_model`.
        DataError: An image cannot be read.
    """
    target = Path(output)
    check_request(cfg, kind, target)
    model = build_predictor(cfg, checkpoint, rpn_checkpoint, "cpu")
    check_model(model)
    rpn: Any = rpn_checkpoint
    if isinstance(model, StageWiseRCNN) and rpn is None:
        rpn = find_rpn(cfg, torch.device("cpu")).checkpoint
    decode = map_keypoints if kind == "torch_export" else decode_keypoints
    graph = DetectorGraph(model, paste_masks=paste_masks, decode=decode).eval()
    metadata = describe(cfg, config_id, graph, checkpoint, rpn, overrides)
    metadata["input"]["smallest_side"] = smallest_side(graph, kind)
    frames, source = comparison_images(
        cfg,
        images,
        count=num_images,
        channels=metadata["input"]["channels"],
        smallest=metadata["input"]["smallest_side"],
    )
    say(f"Exporting {config_id} as {kind}; compared on {source}.")
    temporary = target.with_name(f".{target.stem}.{secrets.token_hex(4)}{target.suffix}")
    try:
        WRITERS[kind](graph, frames[0], temporary, metadata)
        run, _ = open_exported(temporary)
        comparisons = [compare_on(model, run, frame, paste_masks, metadata) for frame in frames]
        equal = not any(c.problems for c in comparisons)
        if equal:
            temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    found = sum(c.expected for c in comparisons)
    return Exported(equal, format_comparisons(comparisons), found)


def compare_on(
    model: nn.Module, run: Run, frame: torch.Tensor, paste_masks: bool, metadata: dict[str, Any]
) -> ImageComparison:
    """Compares file and model on one image (3, H, W) uint8."""
    return compare_outputs(
        eager_outputs(model, frame, paste_masks),
        run(frame.numpy()),
        (frame.shape[1], frame.shape[2]),
        metadata["score_threshold"],
        metadata["max_detections"],
    )


@torch.no_grad()
def eager_outputs(model: Any, frame: torch.Tensor, paste_masks: bool) -> dict[str, np.ndarray]:
    """What the model itself gives for an image (3, H, W), named as in exported files."""
    inputs = [{"image": frame, "height": frame.shape[1], "width": frame.shape[2]}]
    found = model.inference(inputs, do_postprocess=paste_masks)[0]
    found = found["instances"] if paste_masks else found
    outputs = {
        "boxes": found.pred_boxes.tensor,
        "scores": found.scores,
        "classes": found.pred_classes,
    }
    if found.has("pred_masks"):
        outputs["masks"] = found.pred_masks if paste_masks else found.pred_masks[:, 0]
    if found.has("pred_keypoints"):
        outputs["keypoints"] = found.pred_keypoints
    return {name: value.numpy() for name, value in outputs.items()}
