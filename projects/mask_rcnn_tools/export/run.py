"""Export of a model and comparison of the file with it."""

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
from mask_rcnn_tools.export.formats import WRITERS, RunExported, open_exported, smallest_side
from mask_rcnn_tools.export.graph import DetectorGraph
from mask_rcnn_tools.export.images import comparison_images
from mask_rcnn_tools.export.keypoint_decoding import decode_keypoints, map_keypoints
from mask_rcnn_tools.export.metadata import describe
from mask_rcnn_tools.export.support import check_model, check_request


@dataclass(frozen=True)
class ExportResult:
    """Result of an export.

    Attributes:
        equal: Whether the outputs equal those of the model. If not, the file is not kept.
        report: Table of the comparison.
        detections: Number of detections of the model over all images.
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
    print_line: Callable[[str], None] = print,
) -> ExportResult:
    """Exports a trained detector to one file, which is kept only if its outputs equal the model's.

    Args:
        cfg: Validated config.
        checkpoint: Weights.
        output: Output file.
        kind: `torch_export`, `torchscript` or `onnx`.
        config_id: Id of the config, for the metadata.
        rpn_checkpoint: See :func:`~mask_rcnn_repro.build_predictor`.
        paste_masks: See :class:`DetectorGraph`.
        images: Image files for the comparison; see :func:`comparison_images`.
        num_images: See :func:`comparison_images`.
        overrides: Overrides of the command line, for the metadata.
        print_line: Prints a line of progress.

    Raises:
        CheckpointError: Weights are missing or do not fit the model.
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
    print_line(f"Exporting {config_id} as {kind}; compared on {source}.")
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
    return ExportResult(equal, format_comparisons(comparisons), found)


def compare_on(
    model: nn.Module,
    run: RunExported,
    frame: torch.Tensor,
    paste_masks: bool,
    metadata: dict[str, Any],
) -> ImageComparison:
    """Compares the file with the model on one image (3, H, W) uint8."""
    return compare_outputs(
        eager_outputs(model, frame, paste_masks),
        run(frame.numpy()),
        (frame.shape[1], frame.shape[2]),
        metadata["score_threshold"],
        metadata["max_detections"],
    )


@torch.no_grad()
def eager_outputs(model: Any, frame: torch.Tensor, paste_masks: bool) -> dict[str, np.ndarray]:
    """Returns the outputs of the model for an image (3, H, W), named as in exported files."""
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
