"""COCO's metrics by hotcoco, which is many times faster than pycocotools.

hotcoco matches and accumulates. `numbers.summarize` summarizes the arrays of both backends, which
gives unusual limits of detections the same meaning. Input that hotcoco treats differently is left
to pycocotools, see :func:`hotcoco_metrics`.
"""

from __future__ import annotations

import operator
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mask_rcnn_repro.evaluation.coco.detections import TASK_FIELDS, ResultStream
from mask_rcnn_repro.evaluation.coco.numbers import BackendCannot, CocoNumbers, summarize

_FIELDS = {
    "bbox": ("bbox",),
    "segm": ("segmentation",),
    "keypoints": ("keypoints", "num_keypoints", "bbox"),
}
"""Task to the fields of an annotation that it needs, beside those that all tasks need."""

_used = False
_forked_after_use = False


def whole_numbers(values: Iterable[Any], what: str, lowest: int = 0) -> list[int]:
    """Returns the values if all are integers from `lowest` on that a float can hold.

    Raises:
        BackendCannot: One value is not; the message names it and `what` the values are.
    """
    values = list(values)
    for value in values:
        if type(value) is not int or not lowest <= value < 2**53:
            raise BackendCannot(f"{what} such as {value!r}")
    return values


def hotcoco_metrics(*args: Any, **options: Any) -> CocoNumbers:
    """Computes the metrics by hotcoco; see :func:`hotcoco_evaluation`."""
    return summarize(hotcoco_evaluation(*args, **options))


def hotcoco_evaluation(
    gt: COCO,
    detections: Sequence[Mapping[str, Any]] | ResultStream,
    iou_type: str,
    *,
    image_ids: list[Any],
    category_ids: list[int],
    max_dets: list[int],
    oks_sigmas: list[float],
    each_image: bool = False,
    size: str = "all",
) -> COCOeval:
    """Evaluates as :func:`~.backends.pycocotools_evaluation` does, equal to it in every bit.

    One step is not equal in every bit: hotcoco adds up the terms of an object keypoint similarity
    (OKS) in another order, which matters from 8 labeled keypoints on. Its last bits can differ.
    The metrics differ only where an OKS lies that close to a threshold or to another OKS.

    Args:
        each_image: Whether `evalImgs`, the matches in each image, are wanted as well.
        size: With `each_image`, the only size of objects that is evaluated: all, small, ...

    Raises:
        BackendCannot: Ids are not positive integers. There are no images. Annotations or results
            are not in COCO's format, or pycocotools reads them differently (polygons of two
            points, results with a box beside the mask, numbers in float32). The process was forked
            from one that had used hotcoco, whose threads do not survive a fork.
    """
    global _used
    if _forked_after_use:
        raise BackendCannot("this process was forked from one that had used it")
    _used = True
    try:
        import hotcoco
    except ImportError as error:
        raise BackendCannot(f"it cannot be imported ({error})") from error

    # pycocotools' parameters and summary, without its evaluation
    evaluation = COCOeval(iouType=iou_type)
    params = evaluation.params
    params.imgIds = sorted(set(whole_numbers(image_ids, "image ids")))
    params.catIds = sorted(set(whole_numbers(category_ids, "category ids")))
    if iou_type == "keypoints":
        if oks_sigmas:
            params.kpt_oks_sigmas = np.array(oks_sigmas)
        if params.kpt_oks_sigmas.dtype not in (np.float64, np.int64):
            raise BackendCannot(f"sigmas of type {params.kpt_oks_sigmas.dtype}")
    else:
        params.maxDets = sorted(whole_numbers(max_dets, "limits of detections", lowest=1))
    if not (params.imgIds and params.catIds and params.maxDets):  # hotcoco would take all for none
        raise BackendCannot("there are no images, no categories or no limits of detections")
    try:
        content = _ground_truth(gt, iou_type, params.imgIds, params.catIds)
        truth = hotcoco.COCO(content)
        wanted = set(params.imgIds)
        results: Any = (
            _streamed(detections, wanted)
            if isinstance(detections, ResultStream)
            else _listed(detections, iou_type, wanted, gt.imgs.keys())
        )
        fast = hotcoco.COCOeval(truth, truth.load_res(results), iou_type)
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise BackendCannot(f"{type(error).__name__}: {error}") from error
    fast.params.img_ids = params.imgIds
    fast.params.cat_ids = params.catIds
    fast.params.max_dets = params.maxDets
    if each_image:
        params.areaRng, params.areaRngLbl = [params.areaRng[params.areaRngLbl.index(size)]], [size]
        fast.params.area_rng, fast.params.area_rng_lbl = params.areaRng, params.areaRngLbl
    if iou_type == "keypoints":
        fast.params.kpt_oks_sigmas = params.kpt_oks_sigmas.tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about limits other than COCO's
        fast.evaluate()
        fast.accumulate()
    evaluation.eval = {**(fast.eval or {}), "params": params}
    evaluation.evalImgs = fast.eval_imgs if each_image else []
    return evaluation


def _ground_truth(
    gt: COCO, iou_type: str, image_ids: list[int], category_ids: list[int]
) -> dict[str, Any]:
    """The content of a COCO json with what is evaluated only."""
    if len(gt.anns) != len(gt.dataset["annotations"]):
        raise BackendCannot("ids occur twice, or the index is not of these annotations")
    images, categories = set(image_ids), set(category_ids)
    fields = ("id", "iscrowd", "area", "image_id", "category_id", *_FIELDS[iou_type])
    annotations = (a for a in gt.dataset["annotations"] if a["image_id"] in images)
    chosen = (a for a in annotations if a["category_id"] in categories)
    rows = list(map(operator.itemgetter(*fields), chosen))
    ids, crowds, areas, *_ = zip(*rows, strict=True) if rows else ((), (), ())
    whole_numbers(ids, "annotation ids", lowest=1)  # pycocotools takes a match with 0 for none
    if len(set(ids)) < len(ids):
        raise BackendCannot("annotation ids occur twice")
    if not set(crowds) <= {0, 1}:
        raise BackendCannot("an annotation's iscrowd is neither 0 nor 1")
    if not np.isfinite(areas).all():
        raise BackendCannot("an annotation's area is not finite")
    if iou_type == "segm":
        for row in rows:
            _check_mask(row[-1])
    if iou_type == "keypoints" and rows:
        _check_numbers(dict(zip(fields, rows[0], strict=True)), ("area", "bbox", "keypoints"))
    return {
        "images": [
            {"id": i, "width": gt.imgs[i].get("width", 0), "height": gt.imgs[i].get("height", 0)}
            for i in image_ids
        ],
        "categories": [{"id": category, "name": str(category)} for category in category_ids],
        "annotations": [dict(zip(fields, row, strict=True)) for row in rows],
    }


def _check_mask(mask: Any) -> None:
    if isinstance(mask, list):
        # pycocotools takes four numbers for a box, and fails on none
        if not mask or not all(len(p) >= 6 and len(p) % 2 == 0 for p in mask):
            raise BackendCannot("an annotation has a polygon of less than three points")
    elif not isinstance(mask, dict):
        raise BackendCannot(f"an annotation's segmentation is a {type(mask).__name__}")


def _check_numbers(content: Mapping[str, Any], keys: Iterable[str]) -> None:
    """Refuses numbers with which pycocotools computes in another precision than float64."""
    for key in keys:
        values = content[key]
        for value in values if isinstance(values, Iterable) else (values,):
            if not isinstance(value, (int, float)):  # np.float64 is a float
                raise BackendCannot(f"{key} of type {type(value).__name__}")


def _streamed(results: ResultStream, wanted: set[int]) -> str | list[dict[str, Any]]:
    """The results on the `wanted` images: the path of their file, or a list."""
    if not set(results.image_ids) <= wanted:  # the file holds them all
        raise BackendCannot("there are results on images that are not evaluated")
    if not results.finite:
        raise BackendCannot("a score is not finite")
    return list(results.with_arrays()) if results.file is None else str(results.file)


def _listed(
    detections: Sequence[Mapping[str, Any]], iou_type: str, wanted: set[int], known: Iterable[Any]
) -> list[Mapping[str, Any]]:
    """The results on the `wanted` images, with the fields that matter. Loops are in C."""
    if not detections:
        return []
    first = detections[0]
    fields = ["image_id", "category_id", "score", TASK_FIELDS[iou_type]]
    # pycocotools takes the kind of all results, and so what their areas are, from the first
    kinds = ("caption", "bbox", "segmentation", "keypoints")
    kind = next((key for key in kinds if key in first), "no field that is measured")
    if iou_type == "keypoints" and kind == "bbox":
        fields.append("bbox")
    elif kind != TASK_FIELDS[iou_type]:
        raise BackendCannot(f"pycocotools takes them for results of another kind ({kind})")
    if iou_type == "keypoints":
        _check_numbers(first, fields[2:])
    # no tuple for each result, which would have Python search all of them for garbage
    images = set(map(operator.itemgetter("image_id"), detections))
    if not images <= set(known):
        raise BackendCannot("results are on images that are not in the annotations")
    whole_numbers((image for image in images if image in wanted), "image ids")
    scores = np.fromiter(map(operator.itemgetter("score"), detections), np.float64)
    if not np.isfinite(scores).all():
        raise BackendCannot("a score is not finite")
    needed = set(fields)
    if images <= wanted and all(d.keys() == needed for d in detections):
        return list(detections)
    return [{field: d[field] for field in fields} for d in detections if d["image_id"] in wanted]


def _after_fork() -> None:
    global _forked_after_use
    _forked_after_use = _used


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
