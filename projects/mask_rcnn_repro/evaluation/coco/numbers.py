"""What a backend of the COCO metrics returns, and why it may refuse to compute."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from typing import NamedTuple

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


def summarize(evaluation: COCOeval) -> CocoNumbers:
    """Summarizes an evaluation of pycocotools whose `eval` arrays are accumulated."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.summarize()
    params = evaluation.params
    # (IoU thresholds, recalls, categories, sizes, limits)
    precision = evaluation.eval["precision"]
    per_class = {}
    for index, category in enumerate(params.catIds):
        values = precision[:, :, index, 0, -1]
        values = values[values > -1]
        per_class[category] = float(values.mean()) if values.size else -1.0
    return CocoNumbers(
        list(evaluation.stats[: len(METRIC_NAMES[params.iouType])]),
        per_class,
        precision_recall(precision, list(params.catIds)),
    )
