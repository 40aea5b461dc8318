"""Implementations of the COCO metrics, by name; pycocotools is the reference.

A backend is a function with the signature of :func:`pycocotools_metrics`. All must give the same
numbers; what one cannot compute so, it leaves to pycocotools (:class:`BackendCannot`). Which one
computed a record's numbers is written in the record.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import itertools
import logging
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mask_rcnn_repro.errors import DataError
from mask_rcnn_repro.evaluation.coco.detections import ResultStream
from mask_rcnn_repro.evaluation.coco.ground_truth import with_all_masks
from mask_rcnn_repro.evaluation.coco.precision_recall import PrecisionRecall, precision_recall
from mask_rcnn_repro.utils import compiled

METRIC_NAMES: Mapping[str, tuple[str, ...]] = {
    "bbox": ("AP", "AP50", "AP75", "APs", "APm", "APl"),
    "segm": ("AP", "AP50", "AP75", "APs", "APm", "APl"),
    "keypoints": ("AP", "AP50", "AP75", "APm", "APl"),
}


class CocoNumbers(NamedTuple):
    """What a backend computes.

    Attributes:
        stats: the values of :data:`METRIC_NAMES` as fractions; -1 is undefined.
        per_class: AP by category id, the same.
        curves: precision over recall, by category id; None where a backend has none.
    """

    stats: list[float]
    per_class: dict[int, float]
    curves: PrecisionRecall[int] | None = None


class CocoResult(NamedTuple):
    """Metrics of one task and where they come from.

    Attributes:
        metrics: as :func:`coco_metrics` returns them.
        backend: that computed them.
        curves: precision over recall, by class name; None where the backend has none.
    """

    metrics: dict[str, Any]
    backend: str
    curves: PrecisionRecall[str] | None


Backend = Callable[..., CocoNumbers]

COCO_BACKENDS: dict[str, Backend] = {}
"""Backend name to function; add to it with :func:`register_backend`."""

REFERENCE = "pycocotools"

DEFAULT_BACKEND = "auto"
"""The fastest that is installed: for keypoints "compiled" (by Numba), then hotcoco, then
pycocotools."""

logger = logging.getLogger(__name__)


class BackendCannot(Exception):
    """A backend does not give pycocotools' numbers for this input; says why."""


def whole_numbers(values: Iterable[Any], what: str, lowest: int = 0) -> list[int]:
    """The values, if all are integers from `lowest` on that a float can hold.

    Raises:
        BackendCannot: one is not; names it and `what` they are.
    """
    values = list(values)
    for value in values:
        if type(value) is not int or not lowest <= value < 2**53:
            raise BackendCannot(f"{what} such as {value!r}")
    return values


def register_backend(name: str) -> Callable[[Backend], Backend]:
    """Registers a function as a COCO backend under `name`."""

    def register(function: Backend) -> Backend:
        COCO_BACKENDS[name] = function
        return function

    return register


def check_backend(name: str) -> str:
    """Returns `name` if it is a backend that is installed, or "auto".

    Raises:
        DataError: it is not, or is not installed.
    """
    if name != DEFAULT_BACKEND and name not in COCO_BACKENDS:
        allowed = ", ".join(sorted([*COCO_BACKENDS, DEFAULT_BACKEND]))
        raise DataError(f"Unknown COCO backend {name!r}; allowed: {allowed}.")
    package = {"compiled": "numba", "hotcoco": "hotcoco"}.get(name)
    if package is not None and importlib.util.find_spec(package) is None:
        raise DataError(
            f"The COCO backend {name!r} needs {package}, which is not installed. Install it "
            f"(pip install {package}), or set the backend to {DEFAULT_BACKEND!r} or {REFERENCE!r}."
        )
    return name


def backends_for(name: str, iou_type: str) -> list[str]:
    """The backends to try one after the other; the last can compute anything.

    Args:
        name: of a backend, or "auto". What "compiled" does not compute (boxes and masks) is
            computed as by "auto".
        iou_type: "bbox", "segm" or "keypoints".

    Raises:
        DataError: as :func:`check_backend`.
    """
    if check_backend(name) not in (DEFAULT_BACKEND, "compiled"):
        return list(dict.fromkeys([name, REFERENCE]))
    names = []
    if iou_type == "keypoints" and (name == "compiled" or compiled.HAVE_NUMBA):
        names.append("compiled")
    if importlib.util.find_spec("hotcoco") is not None:
        names.append("hotcoco")
    return [*names, REFERENCE]


def coco_metrics(
    gt: COCO,
    detections: Sequence[Mapping[str, Any]],
    iou_type: str,
    *,
    image_ids: Sequence[Any] | None = None,
    class_names: Mapping[int, str] | None = None,
    max_dets: Sequence[int] = (1, 10, 100),
    oks_sigmas: Sequence[float] = (),
    backend: str = DEFAULT_BACKEND,
) -> dict[str, Any]:
    """Computes COCO's metrics.

    Args:
        gt: annotations.
        detections: results in COCO's format, `category_id` as in `gt`. May be empty.
        iou_type: "bbox", "segm" or "keypoints".
        image_ids: images to evaluate on; all by default.
        class_names: `category_id` to name of the classes to evaluate; all by default.
        max_dets: limits of detections an image (keypoints: always 20).
        oks_sigmas: keypoint standard deviations; COCO's 17 by default.
        backend: a name in :data:`COCO_BACKENDS`, or "auto".

    Returns:
        Metric name to percent, NaN where nothing can be measured (no object of that size); and
        under "per_class" class name to AP.

    Raises:
        DataError: unknown backend, or keypoints that do not agree in number.
    """
    return coco_metrics_by(
        gt,
        detections,
        iou_type,
        image_ids=image_ids,
        class_names=class_names,
        max_dets=max_dets,
        oks_sigmas=oks_sigmas,
        backend=backend,
    )[0]


def coco_metrics_by(
    gt: COCO,
    detections: Sequence[Mapping[str, Any]],
    iou_type: str,
    *,
    image_ids: Sequence[Any] | None = None,
    class_names: Mapping[int, str] | None = None,
    max_dets: Sequence[int] = (1, 10, 100),
    oks_sigmas: Sequence[float] = (),
    backend: str = DEFAULT_BACKEND,
) -> tuple[dict[str, Any], str]:
    """As :func:`coco_metrics`; also returns the backend that computed them."""
    result = coco_result(
        gt,
        detections,
        iou_type,
        image_ids=image_ids,
        class_names=class_names,
        max_dets=max_dets,
        oks_sigmas=oks_sigmas,
        backend=backend,
    )
    return result.metrics, result.backend


def coco_result(
    gt: COCO,
    detections: Sequence[Mapping[str, Any]] | ResultStream,
    iou_type: str,
    *,
    image_ids: Sequence[Any] | None = None,
    class_names: Mapping[int, str] | None = None,
    max_dets: Sequence[int] = (1, 10, 100),
    oks_sigmas: Sequence[float] = (),
    backend: str = DEFAULT_BACKEND,
) -> CocoResult:
    """As :func:`coco_metrics`; also returns the backend and the curves behind the numbers.

    Of a :class:`~.detections.ResultStream` the compiled backend takes the
    arrays and hotcoco reads a file; other backends are given a list.
    """
    names = backends_for(backend, iou_type)
    if not isinstance(detections, (ResultStream, list)):
        detections = list(detections)
    if class_names is None:
        class_names = {c["id"]: str(c["name"]) for c in gt.dataset.get("categories", [])}
    if iou_type == "keypoints":
        class_names = _with_keypoints(gt, class_names)
    if iou_type == "segm":
        gt = with_all_masks(gt)
    options: dict[str, Any] = {
        "image_ids": sorted(gt.getImgIds()) if image_ids is None else list(image_ids),
        "category_ids": sorted(class_names),
        "max_dets": list(max_dets),
        "oks_sigmas": list(oks_sigmas),
    }
    chosen: Any = None

    def computed_by(name: str) -> CocoNumbers:
        nonlocal chosen
        given: Any = detections
        if name != "compiled":  # which chooses and checks as it reads
            if chosen is None:
                if iou_type == "keypoints":
                    _check_keypoints(gt, detections, class_names, options)
                chosen = _of_classes(detections, class_names)
            given = chosen if name == "hotcoco" else list(chosen)  # others may want a list
        return CocoNumbers(*COCO_BACKENDS[name](gt, given, iou_type, **options))

    for name, following in itertools.pairwise(names):
        try:
            numbers = computed_by(name)
            break
        except BackendCannot as reason:
            logger.info("%s metrics by %s, not %s: %s.", iou_type, following, name, reason)
    else:
        name = names[-1]
        numbers = computed_by(name)
    metrics: dict[str, Any] = {
        metric: _percent(value)
        for metric, value in zip(METRIC_NAMES[iou_type], numbers.stats, strict=True)
    }
    metrics["per_class"] = {
        class_name: _percent(numbers.per_class[category])
        for category, class_name in class_names.items()
    }
    curves = None if numbers.curves is None else numbers.curves.renamed(class_names)
    return CocoResult(metrics, name, curves)


@register_backend("compiled")
def _compiled_metrics(*args: Any, **options: Any) -> CocoNumbers:
    from mask_rcnn_repro.evaluation.coco.keypoint_metrics import (
        keypoint_metrics,
    )  # imports this module

    return keypoint_metrics(*args, **options)


@register_backend("hotcoco")
def _hotcoco_metrics(*args: Any, **options: Any) -> CocoNumbers:
    from mask_rcnn_repro.evaluation.coco.hotcoco_backend import (
        hotcoco_metrics,
    )  # imports this module

    return hotcoco_metrics(*args, **options)


@register_backend("pycocotools")
def pycocotools_metrics(
    gt: COCO,
    detections: list[dict[str, Any]],
    iou_type: str,
    *,
    image_ids: list[Any],
    category_ids: list[int],
    max_dets: list[int],
    oks_sigmas: list[float],
) -> CocoNumbers:
    """The official implementation."""
    with contextlib.redirect_stdout(io.StringIO()):
        # loadRes writes into the dicts
        evaluation = COCOeval(gt, _index(gt, [dict(d) for d in detections]), iou_type)
        evaluation.params.imgIds = image_ids
        evaluation.params.catIds = category_ids
        if iou_type == "keypoints":
            if oks_sigmas:
                evaluation.params.kpt_oks_sigmas = np.array(oks_sigmas)
        else:
            evaluation.params.maxDets = max_dets
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return summed_up(evaluation)


def _index(gt: COCO, detections: list[dict[str, Any]]) -> COCO:
    if detections:
        return gt.loadRes(detections)
    empty = COCO()  # loadRes cannot do this
    empty.dataset = {
        "images": gt.dataset["images"],
        "categories": gt.dataset.get("categories", []),
        "annotations": [],
    }
    empty.createIndex()
    return empty


def summed_up(evaluation: COCOeval) -> CocoNumbers:
    """The numbers of an evaluation that has been accumulated and summarized."""
    params = evaluation.params
    return CocoNumbers(
        list(evaluation.stats[: len(METRIC_NAMES[params.iouType])]),
        _average_precisions(evaluation),
        precision_recall(evaluation.eval["precision"], list(params.catIds)),
    )


def _average_precisions(evaluation: COCOeval) -> dict[int, float]:
    """AP by category id, over all sizes and the largest number of detections."""
    # (IoU thresholds, recalls, categories, sizes, limits)
    precisions = evaluation.eval["precision"]
    result = {}
    for index, category in enumerate(evaluation.params.catIds):
        values = precisions[:, :, index, 0, -1]
        values = values[values > -1]
        result[category] = float(np.mean(values)) if values.size else -1.0
    return result


def _percent(value: float) -> float:
    return float(value * 100) if value >= 0 else float("nan")


def _of_classes(
    detections: Sequence[Mapping[str, Any]] | ResultStream, class_names: Mapping[int, str]
) -> Sequence[Mapping[str, Any]] | ResultStream:
    if isinstance(detections, ResultStream):
        return detections.only(class_names)
    if set(map(operator.itemgetter("category_id"), detections)) <= class_names.keys():
        return detections
    return [d for d in detections if d["category_id"] in class_names]


def _with_keypoints(gt: COCO, class_names: Mapping[int, str]) -> dict[int, str]:
    """The classes whose annotations hold keypoints; pycocotools fails on the others."""
    holding, lacking = set(), set()
    for annotation in gt.dataset["annotations"]:
        if "keypoints" not in annotation:
            lacking.add(annotation["category_id"])
            continue
        holding.add(annotation["category_id"])
        if "num_keypoints" not in annotation:
            annotation["num_keypoints"] = sum(v > 0 for v in annotation["keypoints"][2::3])
    if mixed := holding & lacking:
        raise DataError(
            f"Only some annotations of category {sorted(mixed)} have keypoints. Give the others "
            "zeros (not visible), which means that they are not labelled."
        )
    return {category: name for category, name in class_names.items() if category in holding}


def _check_keypoints(
    gt: COCO,
    detections: Sequence[Mapping[str, Any]] | ResultStream,
    class_names: Mapping[int, str],
    options: Mapping[str, Any],
) -> None:
    default = COCOeval(iouType="keypoints").params.kpt_oks_sigmas
    images = set(options["image_ids"])
    counts = {"sigmas": {len(options["oks_sigmas"] or default)}}
    counts["annotations"] = {
        len(a["keypoints"]) // 3
        for a in gt.dataset["annotations"]
        if a["category_id"] in class_names and a["image_id"] in images
    }
    counts["predictions"] = (
        detections.keypoint_counts
        if isinstance(detections, ResultStream)
        else {n // 3 for n in set(map(len, map(operator.itemgetter("keypoints"), detections)))}
    )
    if len(set.union(*counts.values())) > 1:
        found = ", ".join(f"{name}: {sorted(values)}" for name, values in counts.items())
        raise DataError(
            f"The numbers of keypoints do not agree ({found}). Set keypoint_oks_sigmas in the data "
            "set's metadata to one value per keypoint, and num_keypoints of the keypoint head."
        )
