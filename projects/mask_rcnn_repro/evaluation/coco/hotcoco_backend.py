"""COCO's metrics by hotcoco, which computes them many times as fast as pycocotools.

hotcoco matches and accumulates; pycocotools sums up the arrays that come out, so that unusual
limits of detections mean the same for both. What hotcoco does not do as pycocotools does is left to
pycocotools, see :func:`hotcoco_metrics`.
"""

from __future__ import annotations

import collections
import contextlib
import io
import itertools
import operator
import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mask_rcnn_repro.evaluation.coco.backends import (
    BackendCannot,
    CocoNumbers,
    summed_up,
    whole_numbers,
)
from mask_rcnn_repro.evaluation.coco.detections import TASK_FIELDS, ResultStream

_FIELDS = {
    "bbox": ("id", "image_id", "category_id", "bbox", "area", "iscrowd"),
    "segm": ("id", "image_id", "category_id", "segmentation", "bbox", "area", "iscrowd"),
    "keypoints": (
        *("id", "image_id", "category_id", "keypoints", "num_keypoints", "bbox", "area"),
        "iscrowd",
    ),
}

_used = False
_forked_after_use = False


def hotcoco_metrics(
    gt: COCO,
    detections: Sequence[dict[str, Any]] | ResultStream,
    iou_type: str,
    *,
    image_ids: list[Any],
    category_ids: list[int],
    max_dets: list[int],
    oks_sigmas: list[float],
) -> CocoNumbers:
    """As :func:`mask_rcnn_repro.evaluation.coco.backends.pycocotools_metrics`, to the last bit.

    Raises:
        BackendCannot: ids that are no positive integers, annotations or results that are not in
            COCO's format or that pycocotools takes for something else (polygons of two points,
            results with a box beside the mask), no images, or a process forked from one that has
            used hotcoco (its threads do not survive a fork).
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
    else:
        params.maxDets = sorted(whole_numbers(max_dets, "limits of detections", lowest=1))
    if not (params.imgIds and params.catIds and params.maxDets):  # hotcoco would take all for none
        raise BackendCannot("there are no images, no categories or no limits of detections")
    try:
        content = _ground_truth(gt, iou_type, params.imgIds, params.catIds)
        truth = hotcoco.COCO(content)
        with _results(detections, iou_type, set(params.imgIds), gt.imgs.keys()) as results:
            fast = hotcoco.COCOeval(truth, truth.load_res(results), iou_type)
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise BackendCannot(f"{type(error).__name__}: {error}") from error
    fast.params.img_ids = params.imgIds
    fast.params.cat_ids = params.catIds
    fast.params.max_dets = params.maxDets
    if iou_type == "keypoints":
        fast.params.kpt_oks_sigmas = params.kpt_oks_sigmas.tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about limits other than COCO's
        fast.evaluate()
        fast.accumulate()
    evaluation.eval = {**(fast.eval or {}), "params": params}
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.summarize()
    return summed_up(evaluation)


def _ground_truth(
    gt: COCO, iou_type: str, image_ids: list[int], category_ids: list[int]
) -> dict[str, Any]:
    """The content of a COCO json with what is evaluated only."""
    if len(gt.anns) != len(gt.dataset["annotations"]):
        raise BackendCannot("ids occur twice, or the index is not of these annotations")
    images, categories = set(image_ids), set(category_ids)
    fields = _FIELDS[iou_type]
    annotations = [
        # a mask's box is not needed and may lack
        {key: a[key] for key in fields if key != "bbox" or iou_type != "segm" or key in a}
        for a in gt.dataset["annotations"]
        if a["image_id"] in images and a["category_id"] in categories
    ]
    # pycocotools takes a match with 0 for none
    ids = set(whole_numbers((a["id"] for a in annotations), "annotation ids", lowest=1))
    if len(ids) < len(annotations):
        raise BackendCannot("annotation ids occur twice")
    if not all(a["iscrowd"] in (0, 1) for a in annotations):
        raise BackendCannot("an annotation's iscrowd is neither 0 nor 1")
    if not np.isfinite([a["area"] for a in annotations]).all():
        raise BackendCannot("an annotation's area is not finite")
    if iou_type == "segm":
        for annotation in annotations:
            _check_mask(annotation["segmentation"])
    sizes = ((image, gt.imgs[image]) for image in image_ids)
    return {
        "images": [
            {"id": image, "width": info.get("width", 0), "height": info.get("height", 0)}
            for image, info in sizes
        ],
        "categories": [{"id": category, "name": str(category)} for category in category_ids],
        "annotations": annotations,
    }


def _check_mask(mask: Any) -> None:
    if isinstance(mask, list):
        # pycocotools takes four numbers for a box, and fails on none
        if not mask or not all(len(p) >= 6 and len(p) % 2 == 0 for p in mask):
            raise BackendCannot("an annotation has a polygon of less than three points")
    elif not isinstance(mask, dict):
        raise BackendCannot(f"an annotation's segmentation is a {type(mask).__name__}")


@contextlib.contextmanager
def _results(
    detections: Sequence[dict[str, Any]] | ResultStream,
    iou_type: str,
    wanted: set[int],
    known: Iterable[Any],
) -> Iterator[str | list[dict[str, Any]]]:
    """The results on the `wanted` images, with the fields that matter: a list or a file's path."""
    if not isinstance(detections, ResultStream):
        yield _listed(detections, iou_type, wanted, known)
        return
    if not set(detections.image_ids) <= wanted:  # the file holds them all
        raise BackendCannot("there are results on images that are not evaluated")
    if not detections.finite:
        raise BackendCannot("a score is not finite")
    if detections.file is not None:
        yield str(detections.file)
        return
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        detections.write(file)
        file.flush()
        yield file.name


def _listed(
    detections: Sequence[dict[str, Any]],
    iou_type: str,
    wanted: set[int],
    known: Iterable[Any],
) -> list[dict[str, Any]]:
    # half a million of them at COCO's size: passes are in C where they can be
    images = set(map(operator.itemgetter("image_id"), detections))
    if not images <= set(known):
        raise BackendCannot("results are on images that are not in the annotations")
    whole_numbers((image for image in images if image in wanted), "image ids")
    with_box = sum(map(operator.contains, detections, itertools.repeat("bbox")))
    field = TASK_FIELDS[iou_type]
    fields = ["image_id", "category_id", "score", field]
    if iou_type != "bbox" and with_box:
        # the first result tells pycocotools whether areas are those of boxes
        if iou_type == "segm" or with_box < len(detections):
            raise BackendCannot(f"{with_box} of {len(detections)} results have a box")
        fields.append("bbox")
    for key in fields:  # KeyError where one lacks
        collections.deque(map(operator.itemgetter(key), detections), maxlen=0)
    results = list(detections)
    if not images <= wanted:
        results = [d for d in results if d["image_id"] in wanted]
    if not set(map(len, results)) <= {len(fields)}:
        results = [d if len(d) == len(fields) else {key: d[key] for key in fields} for d in results]
    scores = np.fromiter(map(operator.itemgetter("score"), results), np.float64, len(results))
    if not np.isfinite(scores).all():
        raise BackendCannot("a score is not finite")
    return results


def _after_fork() -> None:
    global _forked_after_use
    _forked_after_use = _used


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
