"""All analyses of one set of predictions, and the content of analysis.json."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from mask_rcnn_repro.errors import DataError
from mask_rcnn_repro.evaluation.coco.backends import coco_metrics
from mask_rcnn_tools.analyze.calibration import (
    BestThreshold,
    Calibration,
    best_threshold,
    calibration,
)
from mask_rcnn_tools.analyze.confusion import Confusion, confusion_matrix
from mask_rcnn_tools.analyze.error_types import ErrorTypes, error_types
from mask_rcnn_tools.analyze.evaluation_data import TASKS, EvaluationData
from mask_rcnn_tools.analyze.image_scores import ImageScores, image_scores
from mask_rcnn_tools.analyze.keypoint_errors import KeypointErrors, keypoint_errors
from mask_rcnn_tools.analyze.mask_quality import (
    MaskQuality,
    boundary_ap,
    mask_quality,
    mask_quality_by_size,
)
from mask_rcnn_tools.analyze.matching import match

if TYPE_CHECKING:
    from mask_rcnn_tools.analyze.inputs import AnalysisInputs


@dataclass
class Analysis:
    """Results of an analysis. Parts that were not requested or have no data are empty or None.

    Attributes:
        data: Annotations and detections.
        iou_threshold: Minimum IoU of a match.
        score_threshold: Minimum score of detections in `confusion` and `images`.
        errors: Maps tasks ("bbox", "segm") to error types.
        confusion: Confusion matrix of masks, or of boxes without masks.
        images: Quality of images by masks, or by boxes without masks.
        masks: Quality of masks.
        mask_ap: COCO's mask metrics.
        boundary_ap: COCO's mask metrics with Boundary IoU.
        calibration: Maps tasks to the calibration of scores.
        threshold: Maps tasks to the score threshold with the highest F1.
        keypoints: Error types of keypoints.
        notes: Omitted parts and reasons.
    """

    data: EvaluationData
    iou_threshold: float
    score_threshold: float
    errors: dict[str, ErrorTypes] = field(default_factory=dict)
    confusion: Confusion | None = None
    images: ImageScores | None = None
    masks: MaskQuality | None = None
    mask_ap: dict[str, Any] = field(default_factory=dict)
    boundary_ap: dict[str, Any] = field(default_factory=dict)
    calibration: dict[str, Calibration] = field(default_factory=dict)
    threshold: dict[str, BestThreshold] = field(default_factory=dict)
    keypoints: KeypointErrors | None = None
    notes: list[str] = field(default_factory=list)


def analyze(data: EvaluationData, args: argparse.Namespace) -> Analysis:
    """Runs the requested parts; see `cli.py` for the attributes of `args`."""
    iou, score = args.iou_threshold, args.score_threshold
    result = Analysis(data, iou, score)
    tasks = [task for task in data.tasks if task != "keypoints"]
    best = data.best_task
    if "errors" in args.parts:
        for task in tasks:
            result.errors[task] = error_types(data, task, iou, args.background_threshold)
    if "confusion" in args.parts:
        result.confusion = confusion_matrix(data, best, score, iou)
    if "images" in args.parts:
        result.images = image_scores(data, best, score, iou, args.background_threshold)
    lacking = int((~data.annotations.masked).sum())
    if "segm" in tasks and lacking:
        result.notes.append(
            f"{lacking} of {len(data.annotations)} annotations have no mask. In all numbers of "
            "masks, what is found in their boxes counts neither for nor against."
        )
    if "masks" in args.parts:
        if "segm" in tasks:
            _masks(result)
        elif data.detections.masks is not None:
            result.notes.append("Masks are not measured: the annotations have none.")
    if "calibration" in args.parts:
        for task in tasks:
            objects = int((~data.truth(task).crowd).sum())
            matches = match(data, task, iou)
            result.calibration[task] = calibration(data.detections.score, matches)
            result.threshold[task] = best_threshold(data.detections.score, matches, objects)
    if "keypoints" in args.parts and "keypoints" in data.tasks:
        try:
            result.keypoints = keypoint_errors(data)
        except DataError as error:
            result.notes.append(str(error))
    return result


def _masks(result: Analysis) -> None:
    data = result.data
    result.masks = mask_quality(data, result.iou_threshold)
    result.mask_ap = coco_metrics(
        data.coco_with_masks,
        data.results("segm"),
        "segm",
        image_ids=list(data.image_ids),
        class_names=dict(zip(data.category_ids, data.classes, strict=True)),
        max_dets=data.max_dets,
    )
    result.boundary_ap = boundary_ap(data)


def to_plain(
    analysis: Analysis, inputs: AnalysisInputs, args: argparse.Namespace
) -> dict[str, Any]:
    """Returns the content of analysis.json. Undefined numbers are None."""
    data = analysis.data
    content: dict[str, Any] = {
        "title": inputs.title,
        "dataset": data.dataset,
        "predictions": [str(file) for file in inputs.predictions],
        "images": len(data.image_ids),
        "objects": int((~data.annotations.crowd).sum()),
        "crowd_regions": int(data.annotations.crowd.sum()),
        "detections": len(data.detections),
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
            TASKS[task]: _errors(errors, data.classes) for task, errors in analysis.errors.items()
        }
    if analysis.confusion is not None:
        content["confusion"] = {
            "of": TASKS[data.best_task],
            "classes": [*data.classes, "background"],
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
    """Lists images, the worst first."""
    ids = scores.data.image_ids
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
