"""Implementations ("backends") of the COCO metrics, by name. pycocotools is the reference.

A backend is a function with the parameters of :func:`pycocotools_evaluation`. All backends give the
same numbers. A backend that cannot do so for its input raises
:class:`~mask_rcnn_repro.evaluation.coco.numbers.BackendCannot`, and pycocotools takes over. The
record names the backend that computed its numbers.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mask_rcnn_repro.errors import DataError
from mask_rcnn_repro.evaluation.coco.detections import ResultStream
from mask_rcnn_repro.evaluation.coco.ground_truth import fill_keypoints, with_all_masks
from mask_rcnn_repro.evaluation.coco.hotcoco_backend import hotcoco_metrics
from mask_rcnn_repro.evaluation.coco.numbers import (
    METRIC_NAMES,
    BackendCannot,
    CocoNumbers,
    summarize,
)
from mask_rcnn_repro.evaluation.coco.precision_recall import PrecisionRecall

Results = Sequence[Mapping[str, Any]] | ResultStream

REFERENCE = "pycocotools"

DEFAULT_BACKEND = "auto"
"""hotcoco if it is installed, else pycocotools."""

logger = logging.getLogger(__name__)


class CocoResult(NamedTuple):
    """Metrics of one task and where they come from.

    Metrics are in percent, NaN where nothing can be measured (no object of that size).
    """

    metrics: dict[str, Any]  # metric name to value; "per_class" holds AP by class name
    backend: str  # name of the backend that computed them
    curves: PrecisionRecall[str] | None  # by class name; None if the backend has no curves


def pycocotools_metrics(*args: Any, **options: Any) -> CocoNumbers:
    """Computes the metrics by the official implementation; see :func:`pycocotools_evaluation`."""
    return summarize(pycocotools_evaluation(*args, **options))


def pycocotools_evaluation(
    gt: COCO,
    detections: Sequence[Mapping[str, Any]],
    iou_type: str,
    *,
    image_ids: list[Any],
    category_ids: list[int],
    max_dets: list[int],
    oks_sigmas: list[float],
) -> COCOeval:
    """Evaluates and accumulates by the official implementation; see :func:`coco_result`."""
    with contextlib.redirect_stdout(io.StringIO()):
        if detections:
            results = gt.loadRes([dict(d) for d in detections])  # loadRes writes into the dicts
        else:  # loadRes fails without results
            results = COCO()
            results.dataset = {**gt.dataset, "annotations": []}
            results.createIndex()
        evaluation = COCOeval(gt, results, iou_type)
        evaluation.params.imgIds = image_ids
        evaluation.params.catIds = category_ids
        if iou_type != "keypoints":
            evaluation.params.maxDets = max_dets
        elif oks_sigmas:
            evaluation.params.kpt_oks_sigmas = np.array(oks_sigmas)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


COCO_BACKENDS: dict[str, Callable[..., CocoNumbers]] = {
    "hotcoco": hotcoco_metrics,
    REFERENCE: pycocotools_metrics,
}
"""Backend name to function. Add an entry to register a backend."""


def check_backend(name: str) -> str:
    """Returns `name` if it is "auto" or a backend that is installed.

    Raises:
        DataError: The backend is unknown or not installed.
    """
    if name != DEFAULT_BACKEND and name not in COCO_BACKENDS:
        allowed = ", ".join(sorted([*COCO_BACKENDS, DEFAULT_BACKEND]))
        raise DataError(f"Unknown COCO backend {name!r}; allowed: {allowed}.")
    if name == "hotcoco" and importlib.util.find_spec(name) is None:
        raise DataError(
            f"The COCO backend {name!r} is not installed. Install it (pip install {name}), or set "
            f"the backend to {DEFAULT_BACKEND!r} or {REFERENCE!r}."
        )
    return name


def backends_for(name: str) -> list[str]:
    """Returns the backends to try in turn. The last one accepts any input.

    Raises:
        DataError: See :func:`check_backend`.
    """
    if check_backend(name) == DEFAULT_BACKEND:
        name = "hotcoco" if importlib.util.find_spec("hotcoco") is not None else REFERENCE
    return list(dict.fromkeys([name, REFERENCE]))


def coco_metrics(gt: COCO, detections: Results, iou_type: str, **options: Any) -> dict[str, Any]:
    """Computes COCO's metrics and returns `metrics` of :func:`coco_result`, alone."""
    return coco_result(gt, detections, iou_type, **options).metrics


def coco_result(
    gt: COCO,
    detections: Results,
    iou_type: str,
    *,
    image_ids: Sequence[Any] | None = None,
    class_names: Mapping[int, str] | None = None,
    max_dets: Sequence[int] = (1, 10, 100),
    oks_sigmas: Sequence[float] = (),
    backend: str = DEFAULT_BACKEND,
) -> CocoResult:
    """Computes COCO's metrics of one task.

    Args:
        gt: Annotations.
        detections: Results in COCO's format, with the category ids of `gt`. May be empty.
        iou_type: "bbox", "segm" or "keypoints".
        image_ids: Images to evaluate on. All by default.
        class_names: Category id to name of the classes to evaluate. All by default.
        max_dets: Limits of detections per image and class. All metrics are those of the largest.
            Keypoints always have the limit 20.
        oks_sigmas: Keypoint standard deviations. COCO's 17 by default.
        backend: Name in :data:`COCO_BACKENDS`, or "auto".

    Raises:
        DataError: The backend is unknown, or the numbers of keypoints do not agree.
    """
    names = backends_for(backend)
    if not isinstance(detections, (ResultStream, list)):
        detections = list(detections)
    if class_names is None:
        class_names = {c["id"]: str(c["name"]) for c in gt.dataset.get("categories", [])}
    if iou_type == "keypoints":
        class_names = _with_keypoints(gt, class_names)
    if iou_type == "segm":
        gt = with_all_masks(gt)
    detections = _of_classes(detections, class_names)
    options: dict[str, Any] = {
        "image_ids": sorted(gt.getImgIds()) if image_ids is None else list(image_ids),
        "category_ids": sorted(class_names),
        "max_dets": list(max_dets),
        "oks_sigmas": list(oks_sigmas),
    }
    if iou_type == "keypoints":
        _check_keypoints(gt, detections, class_names, options)
    for name in names:
        # hotcoco reads a stream from its file; other backends take a list
        given = detections if name == "hotcoco" else list(detections)
        try:
            numbers = CocoNumbers(*COCO_BACKENDS[name](gt, given, iou_type, **options))
            break
        except BackendCannot as reason:
            if name == names[-1]:
                raise
            logger.info("%s metrics by %s, not %s: %s.", iou_type, names[-1], name, reason)
    stats = zip(METRIC_NAMES[iou_type], numbers.stats, strict=True)
    per_class = {title: _percent(numbers.per_class[c]) for c, title in class_names.items()}
    metrics = {**{metric: _percent(value) for metric, value in stats}, "per_class": per_class}
    curves = None if numbers.curves is None else numbers.curves.renamed(class_names)
    return CocoResult(metrics, name, curves)


def _percent(value: float) -> float:
    return float(value * 100) if value >= 0 else float("nan")


def _of_classes(detections: Results, class_names: Mapping[int, str]) -> Results:
    if isinstance(detections, ResultStream):
        return detections.only(class_names)
    if set(map(operator.itemgetter("category_id"), detections)) <= class_names.keys():
        return detections
    return [d for d in detections if d["category_id"] in class_names]


def _with_keypoints(gt: COCO, class_names: Mapping[int, str]) -> dict[int, str]:
    """The classes whose annotations have keypoints; pycocotools fails on other classes."""
    holding = fill_keypoints(gt.dataset["annotations"])
    return {category: name for category, name in class_names.items() if category in holding}


def _check_keypoints(
    gt: COCO, detections: Results, class_names: Mapping[int, str], options: Mapping[str, Any]
) -> None:
    default = COCOeval(iouType="keypoints").params.kpt_oks_sigmas
    images = set(options["image_ids"])
    counts = {"sigmas": {len(options["oks_sigmas"] or default)}}
    counts["annotations"] = {
        len(a["keypoints"]) // 3
        for a in gt.dataset["annotations"]
        if a["category_id"] in class_names and a["image_id"] in images
    }
    if isinstance(detections, ResultStream):
        counts["predictions"] = detections.keypoint_counts
    else:
        lengths = set(map(len, map(operator.itemgetter("keypoints"), detections)))
        counts["predictions"] = {length // 3 for length in lengths}
    if len(set.union(*counts.values())) > 1:
        found = ", ".join(f"{name}: {sorted(values)}" for name, values in counts.items())
        raise DataError(
            f"The numbers of keypoints do not agree ({found}). Set keypoint_oks_sigmas in the data "
            "set's metadata to one value per keypoint, and num_keypoints of the keypoint head."
        )
