"""COCO's metrics of detections, and the same on samples of the images.

Shapes: B samples, N images, K classes, T IoU thresholds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO

from mask_rcnn_repro.data.coco.file import coco_file
from mask_rcnn_repro.data.coco.normalize import normalize_content
from mask_rcnn_repro.errors import DataError
from mask_rcnn_repro.evaluation.coco.backends import (
    coco_result,
    pycocotools_evaluation,
)
from mask_rcnn_repro.evaluation.coco.detections import TASK_FIELDS
from mask_rcnn_repro.evaluation.coco.ground_truth import index_ground_truth
from mask_rcnn_repro.evaluation.coco.hotcoco_backend import hotcoco_evaluation
from mask_rcnn_repro.evaluation.coco.numbers import METRIC_NAMES, BackendCannot
from mask_rcnn_repro.evaluation.coco.result_files import ID_FIELDS, KnownIds, read_results
from mask_rcnn_tools.evidence.image_bootstrap import image_counts, in_place_of_backend, sampled_ap

_OF_ALL_SIZES = {"AP": slice(None), "AP50": slice(0, 1), "AP75": slice(5, 6)}
_OF_A_SIZE = {"APs": "small", "APm": "medium", "APl": "large"}


@dataclass(frozen=True)
class Measured:
    """Metrics of one list of detections, in percent. NaN where nothing can be measured.

    Attributes:
        metrics: Names of `METRIC_NAMES` to values.
        classes: Class names to AP.
        samples: The metrics on each sample of images, (B,). Empty without samples.
        class_samples: AP of each class on each sample, (B,).
        backend: Implementation that computed the metrics.
    """

    metrics: dict[str, float]
    classes: dict[str, float]
    samples: dict[str, np.ndarray] = field(default_factory=dict)
    class_samples: dict[str, np.ndarray] = field(default_factory=dict)
    backend: str = ""


def read_annotations(file: Path) -> COCO:
    """Reads and indexes a COCO json, as an evaluation of a data set does.

    Raises:
        DataError: The file is missing, no COCO json, or without annotations.
    """
    content = coco_file(str(file)).take_content()
    for key in ("images", "categories", "annotations"):
        if not isinstance(content.get(key), list):
            raise DataError(
                f"{str(file)!r} has no list {key!r}. Give a COCO json with images, categories and "
                "annotations. The json of a test split has no annotations."
            )
    normalize_content(content, str(file))
    return index_ground_truth(content).coco


def read_detections(file: Path, gt: COCO, annotations: str) -> list[dict[str, Any]]:
    """Reads and checks a results file; see :func:`read_results`.

    Args:
        file: Results in COCO's format.
        gt: Annotations.
        annotations: Their name, for messages.
    """
    return read_results([file], KnownIds.of(gt, annotations))


def best_iou_type(detections: Sequence[list[dict[str, Any]]]) -> str:
    """Returns "segm" if all lists of detections have masks, else "keypoints", else "bbox".

    An empty list has whatever the others have; without any detection it is "bbox".
    """
    first = [rows[0] for rows in detections if rows]
    for iou_type in ("segm", "keypoints"):
        if first and all(TASK_FIELDS[iou_type] in row for row in first):
            return iou_type
    return "bbox"


def measure(
    gt: COCO,
    detections: list[dict[str, Any]],
    iou_type: str,
    *,
    samples: int = 0,
    max_detections: int = 100,
    oks_sigmas: Sequence[float] = (),
) -> Measured:
    """Computes COCO's metrics, and the same on bootstrap samples of the images.

    Sample b has the same images for all detections on the same annotations, so that differences of
    two results are paired.

    Args:
        gt: Annotations.
        detections: Rows of :func:`read_detections`. May be empty.
        iou_type: "bbox", "segm" or "keypoints".
        samples: Number of samples. 0 computes the metrics alone.
        max_detections: Detections per image and class.
        oks_sigmas: Keypoint standard deviations. Empty: COCO's 17.

    Raises:
        DataError: Detections or annotations lack what the IoU type needs, or the numbers of
            keypoints do not agree.
    """
    needed = TASK_FIELDS[iou_type]
    for rows, what in ((detections, "results"), (gt.dataset["annotations"], "annotations")):
        if rows and not any(row.get(needed) for row in rows):
            raise DataError(f"The {what} have no {needed!r}. Choose another --iou-type.")
    # pycocotools takes the area of the box if there is one
    keys = (*ID_FIELDS, needed, *(["bbox"] if iou_type == "keypoints" else []))
    rows = [{key: row[key] for key in keys if key in row} for row in detections]
    options: dict[str, Any] = {
        "max_dets": sorted({1, min(10, max_detections), max_detections}),
        "oks_sigmas": oks_sigmas,
    }
    result = coco_result(gt, rows, iou_type, **options)
    metrics = {name: result.metrics[name] for name in METRIC_NAMES[iou_type]}
    found: dict[str, np.ndarray] = {}
    class_found: dict[str, np.ndarray] = {}

    def sample(content: COCO, given: Any, task: str, **chosen: Any) -> None:
        counts = image_counts(len(chosen["image_ids"]), samples)
        names = {c["id"]: str(c["name"]) for c in content.dataset["categories"]}
        for size, ap in _each_size(content, given, task, counts, chosen):
            if size == "all":
                found.update({n: _mean(ap[..., part]) for n, part in _OF_ALL_SIZES.items()})
                of_class = zip(sorted(set(chosen["category_ids"])), ap.swapaxes(0, 1), strict=True)
                class_found.update({names[c]: _mean(values) for c, values in of_class})
            found.update({n: _mean(ap) for n, label in _OF_A_SIZE.items() if label == size})

    if samples:
        with in_place_of_backend(sample) as backend:
            coco_result(gt, rows, iou_type, **options, backend=backend)
    return Measured(metrics, result.metrics["per_class"], found, class_found, result.backend)


def _each_size(
    gt: COCO, detections: Any, iou_type: str, counts: np.ndarray, options: dict[str, Any]
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields "all", "small", ... and the AP of objects of that size on samples, (B, K, T)."""
    sizes = ["all", *(_OF_A_SIZE[n] for n in METRIC_NAMES[iou_type] if n in _OF_A_SIZE)]
    try:
        for size in sizes:
            fast = hotcoco_evaluation(
                gt, detections, iou_type, **options, each_image=True, size=size
            )
            yield size, sampled_ap(fast, counts)
    except BackendCannot:
        reference = pycocotools_evaluation(gt, detections, iou_type, **options)
        params = reference.params
        of_size = dict(zip(params.areaRngLbl, params.areaRng, strict=True))
        for size in sizes:
            params.areaRng = [of_size[size]]
            yield size, sampled_ap(reference, counts)


def _mean(ap: np.ndarray) -> np.ndarray:
    """Mean in percent over all but the samples, without NaN: (B, ...) to (B,)."""
    flat = ap.reshape(len(ap), -1)
    known = ~np.isnan(flat)
    total = np.where(known, flat, 0).sum(axis=1)
    number = known.sum(axis=1)
    return 100 * np.divide(total, number, out=np.full(len(ap), np.nan), where=number > 0)


def interval(samples: np.ndarray | None, confidence: float) -> tuple[float, float] | None:
    """Percentile interval of a metric or of a paired difference.

    Args:
        samples: (B,) values.
        confidence: Percent.

    Returns:
        None without samples, and where the metric is not defined on some sample: it depends on too
        few images.
    """
    if samples is None or not len(samples) or np.isnan(samples).any():
        return None
    tail = (100 - confidence) / 2
    low, high = np.percentile(samples, [tail, 100 - tail])
    return float(low), float(high)
