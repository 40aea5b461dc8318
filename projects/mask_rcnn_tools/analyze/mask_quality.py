"""Masks against boxes, and their boundaries: Boundary IoU (Cheng et al., CVPR 2021).

Boundary IoU is the IoU of the parts of two masks that lie within a distance of their own contours,
2 % of the image's diagonal; unlike IoU it does not reward large objects for their inside. In AP it
stands as the smaller one of it and mask IoU, as in the authors' `boundary-iou-api`.

Shapes: P pairs of a detection and an object; (H, W) an image.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mask_rcnn_repro.evaluation.coco.backends import METRIC_NAMES
from mask_rcnn_tools.analyze.detections import Material
from mask_rcnn_tools.analyze.matching import match

DILATION_RATIO = 0.02

Strip = tuple[int, int, np.ndarray]
"""Left, top, and the boundary's pixels from there on: (h, w) uint8, of the mask's box alone."""


@dataclass(frozen=True)
class MaskQuality:
    """Pairs of detections and the objects that their boxes found.

    Attributes:
        box_iou: (P,).
        mask_iou: (P,).
        boundary_iou: (P,).
        area: (P,) of the object, pixels.
        category: (P,) class index.
        score: (P,) of the detection.
    """

    box_iou: np.ndarray
    mask_iou: np.ndarray
    boundary_iou: np.ndarray
    area: np.ndarray
    category: np.ndarray
    score: np.ndarray

    def __len__(self) -> int:
        return len(self.box_iou)


def mask_quality(
    material: Material, iou_threshold: float = 0.5, dilation_ratio: float = DILATION_RATIO
) -> MaskQuality:
    """Measures the masks of the detections whose boxes found an object.

    Pairs are made by boxes (see :func:`match`), so that a bad mask in a good box is seen.

    Args:
        material: annotations and detections with masks.
        iou_threshold: least box IoU of a pair.
        dilation_ratio: see :func:`mask_boundary`.
    """
    found, truth = material.found, material.truth
    assert found.masks is not None
    assert truth.masks is not None
    matches = match(material, "bbox", iou_threshold)
    detections = np.flatnonzero(matches.correct)
    objects = matches.truth[detections]
    masks = np.zeros(len(found))
    for (rows, columns), iou in zip(material.images(), material.overlaps("segm"), strict=True):
        own = np.flatnonzero(matches.truth[rows] >= 0)
        masks[rows.start + own] = iou[own, matches.truth[rows][own] - columns.start]
    boundary = [
        boundary_iou(
            mask_boundary(found.masks[d], dilation_ratio),
            mask_boundary(truth.masks[g], dilation_ratio),
        )
        for d, g in zip(detections.tolist(), objects.tolist(), strict=True)
    ]
    return MaskQuality(
        box_iou=matches.iou[detections],
        mask_iou=masks[detections],
        boundary_iou=np.array(boundary, float),
        area=truth.area[objects],
        category=truth.category[objects],
        score=found.score[detections],
    )


def mask_boundary(rle: dict[str, Any], dilation_ratio: float = DILATION_RATIO) -> Strip:
    """The pixels of a mask that lie within a distance of its contour.

    The image's edge counts as contour. The distance is `dilation_ratio` times the image's
    diagonal, rounded, at least 1 pixel, measured in the maximum norm: the mask less its erosion by
    a square.

    Args:
        rle: compressed RLE.
        dilation_ratio: 0.02 in the paper.

    Returns:
        See :data:`Strip`; of an empty mask one without pixels.
    """
    left, top, width, height = (int(v) for v in mask_util.toBbox(rle))
    if width == 0 or height == 0:
        return 0, 0, np.zeros((0, 0), np.uint8)
    distance = max(1, round(dilation_ratio * float(np.hypot(*rle["size"]))))
    inside = mask_util.decode(rle)[top : top + height, left : left + width]
    # outside of its box a mask is empty, so nothing beyond one pixel around it can matter
    padded = cv2.copyMakeBorder(inside, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    square = np.ones((2 * distance + 1, 2 * distance + 1), np.uint8)
    return left, top, inside - cv2.erode(padded, square)[1:-1, 1:-1]


def boundary_iou(one: Strip, other: Strip) -> float:
    """IoU of two boundaries of one image; 0 if both are empty."""
    left, top = max(one[0], other[0]), max(one[1], other[1])
    right = min(strip[0] + strip[2].shape[1] for strip in (one, other))
    bottom = min(strip[1] + strip[2].shape[0] for strip in (one, other))
    common = 0
    if left < right and top < bottom:
        parts = [p[top - y : bottom - y, left - x : right - x] for x, y, p in (one, other)]
        common = int(np.count_nonzero(parts[0] & parts[1]))
    union = int(np.count_nonzero(one[2])) + int(np.count_nonzero(other[2])) - common
    return common / union if union else 0.0


class _BoundaryEvaluation(COCOeval):
    """COCO's evaluation of masks with the smaller one of mask IoU and Boundary IoU."""

    dilation_ratio = DILATION_RATIO

    def computeIoU(self, imgId: Any, catId: int) -> Any:
        """(R, G) of an image and a class, detections by falling score; [] without any."""
        iou = super().computeIoU(imgId, catId)
        truth, found = self._gts[imgId, catId], self._dts[imgId, catId]
        if not len(iou):
            return iou
        order = np.argsort([-d["score"] for d in found], kind="mergesort")
        crowd = np.array([bool(g["iscrowd"]) for g in truth])
        strips: dict[int, Strip] = {}
        # below the lowest threshold a pair is none, however good its boundary: most are left out
        for row, column in zip(*np.nonzero((iou >= self.params.iouThrs[0]) & ~crowd), strict=True):
            pair = []
            for annotation in (found[order[row]], truth[column]):
                key = id(annotation)
                if key not in strips:
                    strips[key] = mask_boundary(annotation["segmentation"], self.dilation_ratio)
                pair.append(strips[key])
            iou[row, column] = min(iou[row, column], boundary_iou(*pair))
        return iou


def boundary_ap(
    material: Material, max_detections: int = 100, dilation_ratio: float = DILATION_RATIO
) -> dict[str, Any]:
    """COCO's metrics of masks with Boundary IoU.

    Args:
        material: annotations and detections with masks.
        max_detections: an image and class.
        dilation_ratio: see :func:`mask_boundary`.

    Returns:
        Metric to percent (NaN: undefined), and "per_class": class name to AP.
    """
    rows = material.results("segm")
    with contextlib.redirect_stdout(io.StringIO()):
        truth = material.coco
        found = truth.loadRes(rows) if rows else _without_annotations(truth)
        evaluation = _BoundaryEvaluation(truth, found, "segm")
        evaluation.dilation_ratio = dilation_ratio
        evaluation.params.imgIds = list(material.image_ids)
        evaluation.params.catIds = list(material.category_ids)
        evaluation.params.maxDets = [1, 10, max_detections]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    names = METRIC_NAMES["segm"]
    metrics: dict[str, Any] = dict(
        _percent(zip(names, evaluation.stats[: len(names)], strict=True))
    )
    # (IoU thresholds, recalls, classes, sizes, limits): the last three as AP has them
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    by_class = [values[values > -1] for values in np.moveaxis(precision, 2, 0)]
    means = [values.mean() if values.size else -1.0 for values in by_class]
    metrics["per_class"] = dict(_percent(zip(material.classes, means, strict=True)))
    return metrics


def _percent(values: Any) -> Iterator[tuple[str, float]]:
    return ((name, float(value * 100) if value >= 0 else float("nan")) for name, value in values)


def _without_annotations(truth: COCO) -> COCO:
    empty = COCO()  # loadRes refuses an empty list
    empty.dataset = {**truth.dataset, "annotations": []}
    empty.createIndex()
    return empty
