"""What a backend of the COCO metrics returns, and why it may refuse to compute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from pycocotools.cocoeval import COCOeval

from mask_rcnn_repro.evaluation.coco.precision_recall import PrecisionRecall, precision_recall

METRIC_NAMES: Mapping[str, tuple[str, ...]] = {
    "bbox": ("AP", "AP50", "AP75", "APs", "APm", "APl"),
    "segm": ("AP", "AP50", "AP75", "APs", "APm", "APl"),
    "keypoints": ("AP", "AP50", "AP75", "APm", "APl"),
}
"""Task to the names of its metrics, in the order in which pycocotools lists them."""


class CocoNumbers(NamedTuple):
    """The numbers that a backend computes for one task, as fractions. -1 is undefined."""

    stats: list[float]  # values of METRIC_NAMES
    per_class: dict[int, float]  # AP by category id
    curves: PrecisionRecall[int] | None = None  # by category id; None if the backend has no curves


class BackendCannot(Exception):
    """Raised by a backend that cannot reproduce pycocotools' numbers for its input."""


_RESTRICTIONS = {
    "AP": (None, "all"),
    "AP50": (0.5, "all"),
    "AP75": (0.75, "all"),
    "APs": (None, "small"),
    "APm": (None, "medium"),
    "APl": (None, "large"),
}
"""Metric to its IoU threshold (None: the mean over all) and the size of objects."""


def summarize(evaluation: COCOeval) -> CocoNumbers:
    """Summarizes an evaluation of pycocotools whose `eval` arrays are accumulated.

    All numbers are those of the largest limit of detections. pycocotools' own summary has AP of
    100, the other metrics of the third limit, and fails on fewer than three.
    """
    params = evaluation.params
    # (IoU thresholds, recalls, categories, sizes, limits)
    precision = evaluation.eval["precision"]
    stats = []
    for name in METRIC_NAMES[params.iouType]:
        threshold, size = _RESTRICTIONS[name]
        values = precision if threshold is None else precision[params.iouThrs == threshold]
        stats.append(_mean(values[:, :, :, params.areaRngLbl.index(size), -1]))
    return CocoNumbers(
        stats,
        {c: _mean(precision[:, :, index, 0, -1]) for index, c in enumerate(params.catIds)},
        precision_recall(precision, list(params.catIds)),
    )


def _mean(values: np.ndarray) -> float:
    values = values[values > -1]
    return float(values.mean()) if values.size else -1.0
