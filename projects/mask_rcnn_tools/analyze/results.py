"""All analyses of one set of predictions, and their plain form for JSON."""

from __future__ import annotations

import argparse
import logging
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from mask_rcnn_repro.errors import DataError
from mask_rcnn_repro.evaluation.coco.backends import coco_metrics
from mask_rcnn_tools.analyze.calibration import (
    Calibration,
    Threshold,
    best_threshold,
    calibration,
)
from mask_rcnn_tools.analyze.confusion import Confusion, confusion_matrix
from mask_rcnn_tools.analyze.detections import TASKS, Material
from mask_rcnn_tools.analyze.error_types import ErrorTypes, error_types
from mask_rcnn_tools.analyze.image_scores import ImageScores, image_scores
from mask_rcnn_tools.analyze.keypoint_errors import KeypointErrors, keypoint_errors
from mask_rcnn_tools.analyze.mask_quality import MaskQuality, boundary_ap, mask_quality
from mask_rcnn_tools.analyze.matching import match
from mask_rcnn_tools.analyze.sizes import by_size, mean_or_nan

if TYPE_CHECKING:
    from mask_rcnn_tools.analyze.inputs import Inputs

logger = logging.getLogger(__name__)


@dataclass
class Analysis:
    """What was found; a part that was not asked for, or has no material, is empty or None.

    Attributes:
        material: annotations and detections.
        iou_threshold: of a match.
        score_threshold: of detections in confusions and images.
        errors: task ("bbox", "segm") to error types.
        confusion: of masks, else of boxes.
        images: of masks, else of boxes.
        masks: pairs of detections and objects.
        mask_ap: COCO's mask metrics.
        boundary_ap: the same by Boundary IoU.
        calibration: task to reliability.
        threshold: task to the score threshold with the highest F1.
        keypoints: error types of keypoints.
        notes: what was left out, and why.
    """

    material: Material
    iou_threshold: float
    score_threshold: float
    errors: dict[str, ErrorTypes] = field(default_factory=dict)
    confusion: Confusion | None = None
    images: ImageScores | None = None
    masks: MaskQuality | None = None
    mask_ap: dict[str, Any] = field(default_factory=dict)
    boundary_ap: dict[str, Any] = field(default_factory=dict)
    calibration: dict[str, Calibration] = field(default_factory=dict)
    threshold: dict[str, Threshold] = field(default_factory=dict)
    keypoints: KeypointErrors | None = None
    notes: list[str] = field(default_factory=list)


def analyse(material: Material, args: argparse.Namespace) -> Analysis:
    """Runs the parts that `args` asks for; see `cli.py` for its attributes."""
    iou, score = args.iou_threshold, args.score_threshold
    result = Analysis(material, iou, score)
    tasks = [task for task in material.tasks if task != "keypoints"]
    best = material.best_task
    if "errors" in args.parts:
        for task in tasks:
            result.errors[task] = error_types(material, task, iou, args.background_threshold)
    if "confusion" in args.parts:
        result.confusion = confusion_matrix(material, best, score, iou)
    if "images" in args.parts:
        result.images = image_scores(material, best, score, iou, args.background_threshold)
    if "masks" in args.parts:
        if "segm" in tasks:
            _masks(result, args.max_detections)
        elif material.found.masks is not None:
            result.notes.append("Masks are not measured: the annotations have none.")
    if "calibration" in args.parts:
        objects = int((~material.truth.crowd).sum())
        for task in tasks:
            matches = match(material, task, iou)
            result.calibration[task] = calibration(material.found.score, matches)
            result.threshold[task] = best_threshold(material.found.score, matches, objects)
    if "keypoints" in args.parts and "keypoints" in material.tasks:
        try:
            result.keypoints = keypoint_errors(material)
        except DataError as error:
            result.notes.append(str(error))
    return result


def _masks(result: Analysis, max_detections: int) -> None:
    material = result.material
    result.masks = mask_quality(material, result.iou_threshold)
    result.mask_ap = coco_metrics(
        material.coco,
        material.results("segm"),
        "segm",
        image_ids=list(material.image_ids),
        class_names=dict(zip(material.category_ids, material.classes, strict=True)),
        max_dets=(1, 10, max_detections),
    )
    result.boundary_ap = boundary_ap(material, max_detections)


def mask_quality_by_size(masks: MaskQuality) -> dict[str, dict[str, float]]:
    """Size ("all", "small", ...) to the number of pairs and the means of their IoUs."""
    return {
        name: {
            "pairs": int(chosen.sum()),
            "box_iou": mean_or_nan(masks.box_iou[chosen]),
            "mask_iou": mean_or_nan(masks.mask_iou[chosen]),
            "boundary_iou": mean_or_nan(masks.boundary_iou[chosen]),
        }
        for name, chosen in by_size(masks.area).items()
    }


def to_plain(analysis: Analysis, inputs: Inputs, args: argparse.Namespace) -> dict[str, Any]:
    """The content of analysis.json: numbers, texts, lists and dicts; undefined numbers are null."""
    material = analysis.material
    content: dict[str, Any] = {
        "title": inputs.title,
        "dataset": material.dataset,
        "predictions": [str(file) for file in inputs.predictions],
        "images": len(material.image_ids),
        "objects": int((~material.truth.crowd).sum()),
        "crowd_regions": int(material.truth.crowd.sum()),
        "detections": len(material.found),
        "settings": {
            "iou_threshold": args.iou_threshold,
            "background_threshold": args.background_threshold,
            "score_threshold": args.score_threshold,
            "max_detections": args.max_detections,
        },
        "notes": analysis.notes,
    }
    if analysis.errors:
        content["errors"] = {
            TASKS[task]: _errors(errors, material.classes)
            for task, errors in analysis.errors.items()
        }
    if analysis.confusion is not None:
        content["confusion"] = {
            "of": TASKS[material.best_task],
            "classes": [*material.classes, "background"],
            "counts": analysis.confusion.counts.tolist(),
            "by_truth": analysis.confusion.by_truth.tolist(),
            "by_prediction": analysis.confusion.by_prediction.tolist(),
        }
    if analysis.images is not None:
        content["image_quality"] = _images(analysis.images)
    if analysis.masks is not None:
        content["masks"] = {
            "by_size": mask_quality_by_size(analysis.masks),
            "ap": analysis.mask_ap,
            "boundary_ap": analysis.boundary_ap,
        }
    if analysis.calibration:
        content["calibration"] = {
            TASKS[task]: {
                **{key: np.asarray(value).tolist() for key, value in vars(values).items()},
                "best_threshold": dict(vars(analysis.threshold[task])),
            }
            for task, values in analysis.calibration.items()
        }
    if analysis.keypoints is not None:
        keypoints = analysis.keypoints
        content["keypoints"] = {
            "ap": keypoints.ap,
            "delta_ap": keypoints.delta,
            "persons": len(keypoints.detection),
            "names": list(keypoints.names),
            "counts": {kind: values.tolist() for kind, values in keypoints.counts().items()},
        }
    return _nulls(content)


def _errors(errors: ErrorTypes, classes: tuple[str, ...]) -> dict[str, Any]:
    return {
        "ap": errors.ap,
        "delta_ap": errors.delta,
        "counts": errors.counts,
        "by_class": {
            name: {
                "ap": errors.class_ap[index],
                "delta_ap": {kind: v[index] for kind, v in errors.class_delta.items()},
                "counts": {kind: int(v[index]) for kind, v in errors.class_counts.items()},
            }
            for index, name in enumerate(classes)
        },
    }


def _images(scores: ImageScores) -> list[dict[str, Any]]:
    """Each image, the worst first."""
    ids = scores.material.image_ids
    return [
        {
            "image_id": ids[index],
            "quality": scores.quality[index],
            "true_positives": int(scores.true[index]),
            "false_positives": int(scores.false[index]),
            "false_negatives": int(scores.unfound[index]),
        }
        for index in scores.worst(len(ids))
    ]


def _nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _nulls(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_nulls(item) for item in value]
    if isinstance(value, float):  # numpy's as well
        return float(value) if math.isfinite(value) else None
    return value
