"""COCO's keypoint metrics by compiled loops, from arrays; the fastest way, where Numba is.

Numbers equal pycocotools' to the last bit; what is done differently there is left to it, see
:func:`keypoint_metrics`. Shapes as in `keypoint_kernels.py`; I images,
R results of all images before the limit of detections.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import struct
from collections.abc import Iterable, Mapping, Sequence
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
from mask_rcnn_repro.evaluation.coco.detections import ResultStream
from mask_rcnn_repro.utils import compiled

_CHUNK = 1 << 17
"""Numbers whose exponential is taken at once; a megabyte, which stays in the cache."""

_MOST_KEYPOINTS = 128  # NumPy adds up more of them in another order


class _Listed:
    """Results as arrays of R rows, from a list of dicts.

    Attributes:
        image_ids: those that occur; of a stream maybe others, too.
        images: (R,) ids.
        categories: (R,) ids.
        scores: (R,)
        with_box: whether there are boxes.
    """

    def __init__(
        self, results: Sequence[Mapping[str, Any]], category_ids: list[int], num_keypoints: int
    ) -> None:
        # the first decides for pycocotools, too, which gets those of these categories
        first = next((r for r in results if r["category_id"] in category_ids), {})
        self.with_box = "bbox" in first
        if "caption" in first or ("segmentation" in first and not self.with_box):
            raise BackendCannot("the results are captions or masks for it")
        if first:
            _check_numbers(first, ("score", "keypoints", *(["bbox"] if self.with_box else [])))
        width = 4 * self.with_box + 3 * num_keypoints
        row = struct.Struct(f"=qqd{width}d")
        content = bytearray(row.size * len(results))
        # each dict once: most of the time goes into fetching numbers from all over the memory
        for offset, result in zip(range(0, len(content), row.size), results, strict=True):
            row.pack_into(
                content,
                offset,
                result["image_id"],
                result["category_id"],
                result["score"],
                *(result["bbox"] if self.with_box else ()),
                *result["keypoints"],
            )
        fields: Any = [("image", "i8"), ("category", "i8"), ("score", "f8"), ("rest", "f8", width)]
        table = np.frombuffer(content, fields) if content else np.zeros(0, fields)
        self.images, self.categories = table["image"], table["category"]
        self.scores = table["score"]
        self.image_ids = np.unique(self.images).tolist()
        self._rest = table["rest"].reshape(-1, width)

    def boxes(self, rows: np.ndarray) -> np.ndarray:
        """(D, 4) XYWH."""
        return self._rest[rows, :4]

    def keypoints(self, rows: np.ndarray) -> np.ndarray:
        """(D, 3K)"""
        return self._rest[rows, 4 * self.with_box :]


class _Streamed:
    """The same of the evaluator's arrays, without a dict between."""

    def __init__(self, results: ResultStream) -> None:
        self.image_ids = whole_numbers(results.image_ids, "image ids")
        index, self.categories, self.scores = results.columns()
        if self.categories.dtype.kind not in "iu":
            raise BackendCannot(f"category ids of type {self.categories.dtype}")
        self.images = np.array(self.image_ids, np.int64)[index]
        self.with_box = "bbox" in results.fields
        self.boxes = results.boxes
        self.keypoints = results.keypoints


def keypoint_metrics(
    gt: COCO,
    detections: Sequence[Mapping[str, Any]] | ResultStream,
    iou_type: str,
    *,
    image_ids: list[Any],
    category_ids: list[int],
    max_dets: list[int],
    oks_sigmas: list[float],
) -> CocoNumbers:
    """As :func:`mask_rcnn_repro.evaluation.coco.backends.pycocotools_metrics`, to the last bit.

    Args:
        detections: may hold other categories, which do not count.
        max_dets: not used; keypoints are always limited to 20 detections an image.

    Raises:
        BackendCannot: another task than keypoints; no Numba; ids that are no integers, or below 0
            (of annotations: below 1, or twice); annotations or results that are not in COCO's
            format, have different fields or (as their first shows) numbers of other types than
            Python's; results on unknown images; `iscrowd` neither 0 nor 1; scores or areas that are
            not finite; over 128 keypoints; sigmas of a higher precision.
    """
    if iou_type != "keypoints":
        raise BackendCannot("it computes keypoint metrics only")
    if not compiled.HAVE_NUMBA:
        raise BackendCannot("Numba is not installed, or switched off")
    evaluation = COCOeval(iouType=iou_type)  # parameters and summary, without its evaluation
    params = evaluation.params
    params.imgIds = sorted(set(whole_numbers(image_ids, "image ids")))
    params.catIds = sorted(set(whole_numbers(category_ids, "category ids")))
    if oks_sigmas:
        params.kpt_oks_sigmas = np.array(oks_sigmas)
    if np.result_type(params.kpt_oks_sigmas, np.float64) != np.float64:
        raise BackendCannot(f"sigmas of type {params.kpt_oks_sigmas.dtype}")
    num_keypoints = len(params.kpt_oks_sigmas)
    if num_keypoints > _MOST_KEYPOINTS:
        raise BackendCannot(f"there are {num_keypoints} keypoints")
    try:
        objects = _GroundTruth(gt, params.imgIds, params.catIds, num_keypoints)
        results = (
            _Streamed(detections)
            if isinstance(detections, ResultStream)
            else _Listed(detections, params.catIds, num_keypoints)
        )
        found = _Detections(results, gt, params, num_keypoints)
    except (KeyError, ValueError, TypeError, OverflowError, struct.error) as error:
        raise BackendCannot(f"{type(error).__name__}: {error}") from error
    groups = _groups(objects.keys, found.keys)
    tp, fp = _matched(groups, objects, found, params)
    evaluation.eval = {"params": params, **_accumulated(objects, found, tp, fp, params)}
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.summarize()
    return summed_up(evaluation)


class _GroundTruth:
    """Annotations of the images and categories, ordered by category, image and place in the file.

    Attributes:
        keys: (G,) category index times I plus image index.
        areas: (G,)
        crowds: (G,)
        ignored: (G,) crowds, and objects without a labelled keypoint.
        boxes: (G, 4) XYWH.
        keypoints: (G, K, 3)
    """

    def __init__(
        self, gt: COCO, image_ids: list[int], category_ids: list[int], num_keypoints: int
    ) -> None:
        if len(gt.anns) != len(gt.dataset["annotations"]):
            raise BackendCannot("ids occur twice, or the index is not of these annotations")
        image_index = {image_id: index for index, image_id in enumerate(image_ids)}
        start = {category: k * len(image_ids) for k, category in enumerate(category_ids)}
        row = struct.Struct(f"=qqddd{4 + 3 * num_keypoints}d")
        fields: Any = [
            *(("id", "i8"), ("key", "i8"), ("area", "f8"), ("crowd", "f8"), ("labelled", "f8")),
            *(("box", "f8", 4), ("keypoints", "f8", (num_keypoints, 3))),
        ]
        content = bytearray()
        for annotation in gt.dataset["annotations"]:
            image = image_index.get(annotation["image_id"])
            category = start.get(annotation["category_id"])
            if image is not None and category is not None:
                if not content:
                    _check_numbers(annotation, ("area", "bbox", "keypoints"))
                content += row.pack(
                    annotation["id"],
                    category + image,
                    annotation["area"],
                    annotation["iscrowd"],
                    annotation["num_keypoints"],
                    *annotation["bbox"],
                    *annotation["keypoints"],
                )
        table = np.frombuffer(content, fields)
        table = table[np.argsort(table["key"], kind="stable")]
        # pycocotools takes a match with 0 for none
        if len(table) and table["id"].min() < 1:
            raise BackendCannot(f"annotation ids such as {table['id'].min()}")
        if len(np.unique(table["id"])) < len(table):
            raise BackendCannot("annotation ids occur twice")
        if not np.isin(table["crowd"], (0, 1)).all():
            raise BackendCannot("an annotation's iscrowd is neither 0 nor 1")
        if not np.isfinite(table["area"]).all():
            raise BackendCannot("an annotation's area is not finite")
        self.keys = table["key"]
        self.areas = np.ascontiguousarray(table["area"])
        self.crowds = table["crowd"] == 1
        self.ignored = self.crowds | (table["labelled"] == 0)
        self.boxes = np.ascontiguousarray(table["box"])
        self.keypoints = np.ascontiguousarray(table["keypoints"])


class _Detections:
    """Results that count, ordered by category, image and falling score.

    Attributes:
        keys: (D,) as of the objects.
        scores: (D,)
        areas: (D,) of the box, or of all keypoints' bounding box where there are no boxes.
        keypoints: (D, K, 3)
    """

    def __init__(
        self, results: _Listed | _Streamed, gt: COCO, params: Any, num_keypoints: int
    ) -> None:
        if not set(results.image_ids) <= gt.imgs.keys():
            raise BackendCannot("results are on images that are not in the annotations")
        if not np.isfinite(results.scores).all():
            raise BackendCannot("a score is not finite")
        count = len(params.imgIds)
        image = _index(results.images, params.imgIds)
        category = _index(results.categories, params.catIds)
        keys = np.where((image < 0) | (category < 0), -1, category * count + image)
        order = np.lexsort((-results.scores, keys))
        order = order[keys[order] >= 0]
        sorted_keys = keys[order]
        rank = np.arange(len(order)) - np.searchsorted(sorted_keys, sorted_keys)
        order = order[rank < params.maxDets[-1]]
        self.keys = keys[order]
        self.scores = results.scores[order]
        flat = results.keypoints(order) if len(order) else np.zeros((0, 3 * num_keypoints))
        if flat.shape[1] != 3 * num_keypoints:
            raise BackendCannot(f"results of {flat.shape[1]} numbers, not {3 * num_keypoints}")
        self.keypoints = flat.reshape(-1, num_keypoints, 3)
        if results.with_box:
            boxes = results.boxes(order)
            self.areas = boxes[:, 2] * boxes[:, 3]
        else:
            low, high = self.keypoints.min(axis=1), self.keypoints.max(axis=1)
            self.areas = (high[:, 0] - low[:, 0]) * (high[:, 1] - low[:, 1])


def _check_numbers(content: Mapping[str, Any], keys: Iterable[str]) -> None:
    """Refuses numbers with which pycocotools would compute in another precision."""
    for key in keys:
        values = content[key]
        for value in values if isinstance(values, Iterable) else (values,):
            if not isinstance(value, (int, float)):  # np.float64 is a float
                raise BackendCannot(f"{key} of type {type(value).__name__}")


def _index(values: np.ndarray, known: Sequence[int]) -> np.ndarray:
    """Index of each value in `known`, which ascends; -1 where it is not there."""
    if not known:
        return np.full(len(values), -1)
    places = np.searchsorted(known, values).clip(max=len(known) - 1)
    return np.where(np.asarray(known)[places] == values, places, -1)


def _groups(objects: np.ndarray, detections: np.ndarray) -> np.ndarray:
    """(P, 4) first object, last + 1, first detection, last + 1 of each key with detections."""
    keys = np.unique(detections)
    bounds = [
        bound
        for rows in (objects, detections)
        for bound in (np.searchsorted(rows, keys), np.searchsorted(rows, keys, "right"))
    ]
    return np.stack(bounds, axis=1).astype(np.int64)


def _matched(
    groups: np.ndarray, objects: _GroundTruth, found: _Detections, params: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Which detections are true and which are false positives, (A, T, D) each."""
    from mask_rcnn_repro.evaluation.coco.keypoint_kernels import exponents, match

    thresholds = np.asarray(params.iouThrs, np.float64)
    ranges = np.asarray(params.areaRng, np.float64)
    variances = ((np.asarray(params.kpt_oks_sigmas) * 2) ** 2).astype(np.float64)
    tp = np.zeros((len(ranges), len(thresholds), len(found.keys)), bool)
    fp = np.zeros_like(tp)
    pairs = (groups[:, 1] - groups[:, 0]) * (groups[:, 3] - groups[:, 2])
    numbers = np.concatenate([[0], np.cumsum(pairs * len(variances))])
    ends = [0]
    while ends[-1] < len(groups):  # one group at least
        end = np.searchsorted(numbers, numbers[ends[-1]] + _CHUNK, "right") - 1
        ends.append(max(ends[-1] + 1, int(end)))

    def work(start: int, stop: int) -> None:
        for first, last in itertools.pairwise(ends[start : stop + 1]):
            buffer = np.empty(numbers[last] - numbers[first])
            used = exponents(
                *(groups, first, last),
                *(objects.keypoints, objects.areas, objects.boxes, found.keypoints, variances),
                buffer,
            )
            with np.errstate(over="ignore"):
                np.exp(buffer[:used], out=buffer[:used])
            match(
                *(groups, first, last),
                *(objects.keypoints, objects.areas, objects.crowds, objects.ignored),
                *(found.areas, buffer, thresholds, ranges, tp, fp),
            )

    compiled.run_in_threads(work, len(ends) - 1)
    return tp, fp


def _accumulated(
    objects: _GroundTruth, found: _Detections, tp: np.ndarray, fp: np.ndarray, params: Any
) -> dict[str, np.ndarray]:
    """Precision and recall as ``COCOeval.accumulate`` gives them.

    Returns:
        precision: (T, recalls, categories, A, 1); -1 where no object counts.
        recall: (T, categories, A, 1), the same.
    """
    from mask_rcnn_repro.evaluation.coco.keypoint_kernels import accumulate

    sizes, levels, _ = tp.shape
    shape = (levels, len(params.recThrs), len(params.catIds), sizes, 1)
    precision, recall = -np.ones(shape), -np.ones((levels, *shape[2:]))
    images = len(params.imgIds)
    for k in range(len(params.catIds)):
        here = slice(*np.searchsorted(found.keys, [k * images, (k + 1) * images]))
        there = slice(*np.searchsorted(objects.keys, [k * images, (k + 1) * images]))
        areas = objects.areas[there]
        order = np.argsort(-found.scores[here], kind="stable")
        for size, (low, high) in enumerate(params.areaRng):
            counting = ~(objects.ignored[there] | (areas < low) | (areas > high))
            number = int(np.count_nonzero(counting))
            if number == 0:
                continue
            for level in range(levels):
                recall[level, k, size, 0] = accumulate(
                    tp[size, level, here],
                    fp[size, level, here],
                    order,
                    number,
                    params.recThrs,
                    precision[level, :, k, size, 0],
                )
    return {"precision": precision, "recall": recall}
