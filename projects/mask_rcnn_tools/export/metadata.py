"""Metadata of an exported file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from detectron2.data import MetadataCatalog
from omegaconf import DictConfig, OmegaConf

from mask_rcnn_repro.config import config_hash
from mask_rcnn_repro.config.serialization import WHERE_KEYS
from mask_rcnn_repro.engine.dependencies import data_sets
from mask_rcnn_repro.records.provenance import checkpoint_info, versions
from mask_rcnn_tools.export.graph import DetectorGraph

VERSION = 1

_OUTPUTS = {
    "boxes": "(R, 4) float32: x1, y1, x2, y2 in pixels of the input image",
    "scores": "(R,) float32, by falling value",
    "classes": "(R,) int64: index into class_names",
    "masks": "(R, M, M) float32: probabilities inside the box",
    "keypoints": "(R, P, 3) float32: x, y in pixels of the input image, score",
}
_PASTED = "(R, H, W) bool: the object's pixels in the input image"


def describe(
    cfg: DictConfig,
    config_id: str,
    graph: DetectorGraph,
    checkpoint: str | os.PathLike[str],
    rpn_checkpoint: str | os.PathLike[str] | None,
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Returns the metadata of a file for JSON.

    Args:
        cfg: Config of the model.
        config_id: Id of the config.
        graph: The exported graph.
        checkpoint: Weights of the model.
        rpn_checkpoint: Weights of the RPN of a stage-wise model.
        overrides: Overrides of the command line.
    """
    predictor = graph.detector.roi_heads.box_predictor
    shortest, longest = resize_of(cfg)
    data = MetadataCatalog.get(data_sets(cfg, "test")[0].name)
    outputs = {name: _OUTPUTS[name] for name in graph.output_names}
    if graph.paste_masks:
        outputs["masks"] = _PASTED
    return {
        "metadata_version": VERSION,
        "config": config_id,
        "profile": str(cfg.train.profile),
        "config_hash": config_hash(cfg),
        "overrides": [o for o in overrides if o.lstrip("+~").partition("=")[0] not in WHERE_KEYS],
        "checkpoint": checkpoint_info(checkpoint),
        "rpn_checkpoint": checkpoint_info(rpn_checkpoint) if rpn_checkpoint else None,
        "input": {
            "name": "image",
            "shape": "(3, H, W)",
            "dtype": "uint8",
            "channels": graph.detector.input_format or "BGR",
            "shortest_edge": shortest,
            "longest_edge": longest,
        },
        "outputs": outputs,
        "class_names": _class_names(list(data.get("thing_classes", [])), graph),
        "keypoint_names": list(data.get("keypoint_names", []))[: _keypoints(cfg)] or None,
        "score_threshold": float(predictor.test_score_thresh),
        "nms_threshold": float(predictor.test_nms_thresh),
        "max_detections": int(predictor.test_topk_per_image),
        "versions": versions(),
    }


def resize_of(cfg: DictConfig) -> tuple[int | None, int | None]:
    """Returns the (largest) shortest edge of test images and the limit of the longest, or None."""
    for augmentation in OmegaConf.select(cfg, "dataloader.test.mapper.augmentations") or []:
        if "short_edge_length" in augmentation:
            lengths = augmentation.short_edge_length
            edge = lengths if isinstance(lengths, int) else max(lengths)
            return int(edge), int(augmentation.get("max_size") or 0) or None
    return None, None


def _class_names(known: list[str], graph: DetectorGraph) -> list[str]:
    """Returns the names of the classes, or numbers if they are unknown."""
    count = graph.detector.roi_heads.num_classes
    return known if len(known) == count else [f"class {number}" for number in range(count)]


def _keypoints(cfg: DictConfig) -> int:
    return int(OmegaConf.select(cfg, "model.roi_heads.keypoint_head.num_keypoints") or 0)
