"""Implementations of the COCO metrics, by name; pycocotools is the reference.

A backend is a function with the signature of :func:`pycocotools_metrics`. All must give the same
numbers; which one computed a record's numbers is written in the record.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mask_rcnn_repro.errors import DataError

METRIC_NAMES: Mapping[str, tuple[str, ...]] = {
    "bbox": ("AP", "AP50", "AP75", "APs", "APm", "APl"),
    "segm": ("AP", "AP50", "AP75", "APs", "APm", "APl"),
    "keypoints": ("AP", "AP50", "AP75", "APm", "APl"),
}

Backend = Callable[..., tuple[list[float], dict[int, float]]]

COCO_BACKENDS: dict[str, Backend] = {}
"""Backend name to function; add to it with :func:`register_backend`."""

DEFAULT_BACKEND = "pycocotools"


def register_backend(name: str) -> Callable[[Backend], Backend]:
    """Registers a function as a COCO backend under `name`."""

    def register(function: Backend) -> Backend:
        COCO_BACKENDS[name] = function
        return function

    return register


def check_backend(name: str) -> str:
    """Returns `name` if it is a backend.

    Raises:
        DataError: it is not.
    """
    if name not in COCO_BACKENDS:
        raise DataError(
            f"Unknown COCO backend {name!r}; allowed: {', '.join(sorted(COCO_BACKENDS))}."
        )
    return name


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
        backend: a name in :data:`COCO_BACKENDS`.

    Returns:
        Metric name to percent, NaN where nothing can be measured (no object of that size); and
        under "per_class" class name to AP.

    Raises:
        DataError: unknown backend, or keypoints that do not agree in number.
    """
    if class_names is None:
        class_names = {c["id"]: str(c["name"]) for c in gt.dataset.get("categories", [])}
    if iou_type == "keypoints":
        class_names = _with_keypoints(gt, class_names)
        _check_keypoints(gt, detections, class_names, oks_sigmas)
    stats, per_class = COCO_BACKENDS[check_backend(backend)](
        gt,
        [d for d in detections if d["category_id"] in class_names],
        iou_type,
        image_ids=sorted(gt.getImgIds()) if image_ids is None else list(image_ids),
        category_ids=sorted(class_names),
        max_dets=list(max_dets),
        oks_sigmas=list(oks_sigmas),
    )
    metrics: dict[str, Any] = {
        name: _percent(value) for name, value in zip(METRIC_NAMES[iou_type], stats, strict=True)
    }
    metrics["per_class"] = {
        name: _percent(per_class[category]) for category, name in class_names.items()
    }
    return metrics


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
) -> tuple[list[float], dict[int, float]]:
    """The official implementation.

    Returns:
        The values of :data:`METRIC_NAMES` as fractions, and AP by category id; -1 is undefined.
    """
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
    count = len(METRIC_NAMES[iou_type])
    return list(evaluation.stats[:count]), _average_precisions(evaluation)


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


def _with_keypoints(gt: COCO, class_names: Mapping[int, str]) -> dict[int, str]:
    """The classes whose annotations hold keypoints; pycocotools fails on the others."""
    holding = {a["category_id"] for a in gt.dataset["annotations"] if "keypoints" in a}
    lacking = {a["category_id"] for a in gt.dataset["annotations"] if "keypoints" not in a}
    if mixed := holding & lacking:
        raise DataError(
            f"Only some annotations of category {sorted(mixed)} have keypoints. Give the others "
            "zeros (not visible), which means that they are not labelled."
        )
    for annotation in gt.dataset["annotations"]:
        if "keypoints" in annotation and "num_keypoints" not in annotation:
            annotation["num_keypoints"] = sum(v > 0 for v in annotation["keypoints"][2::3])
    return {category: name for category, name in class_names.items() if category in holding}


def _check_keypoints(
    gt: COCO,
    detections: Sequence[Mapping[str, Any]],
    class_names: Mapping[int, str],
    oks_sigmas: Sequence[float],
) -> None:
    default = COCOeval(iouType="keypoints").params.kpt_oks_sigmas
    counts = {"sigmas": {len(oks_sigmas or default)}}
    counts["annotations"] = {
        len(a["keypoints"]) // 3
        for a in gt.dataset["annotations"]
        if a["category_id"] in class_names
    }
    counts["predictions"] = {len(d["keypoints"]) // 3 for d in detections}
    if len(set.union(*counts.values())) > 1:
        found = ", ".join(f"{name}: {sorted(values)}" for name, values in counts.items())
        raise DataError(
            f"The numbers of keypoints do not agree ({found}). Set keypoint_oks_sigmas in the data "
            "set's metadata to one value per keypoint, and num_keypoints of the keypoint head."
        )
