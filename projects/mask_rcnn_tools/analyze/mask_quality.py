"""Quality of masks relative to boxes, and Boundary IoU (Cheng et al., CVPR 2021).

Boundary IoU is the IoU of the parts of two masks within a distance of their contours, 2 % of the
image's diagonal. For AP, the smaller one of it and mask IoU is used, as in the authors'
`boundary-iou-api`.

Shapes: P pairs of a detection and an object; (H, W) an image.
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mask_rcnn_repro.evaluation.coco.numbers import METRIC_NAMES, summarize
from mask_rcnn_tools.analyze.evaluation_data import EvaluationData
from mask_rcnn_tools.analyze.matching import match

DILATION_RATIO = 0.02

SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, np.inf)}
"""Ranges of areas in pixels of the original image, without the upper end."""

Boundary = tuple[int, int, np.ndarray]
"""Left, top and (h, w) uint8 pixels of a boundary inside the box of its mask."""


@dataclass(frozen=True)
class MaskQuality:
    """IoUs of pairs of detections and objects, which are matched by boxes.

    Attributes:
        box_iou: (P,).
        mask_iou: (P,).
        boundary_iou: (P,).
        area: (P,) areas of the objects in pixels.
    """

    box_iou: np.ndarray
    mask_iou: np.ndarray
    boundary_iou: np.ndarray
    area: np.ndarray

    def __len__(self) -> int:
        return len(self.box_iou)


def mask_quality(
    data: EvaluationData, iou_threshold: float = 0.5, dilation_ratio: float = DILATION_RATIO
) -> MaskQuality:
    """Measures the masks of the detections whose boxes match an object.

    Pairs are matched by boxes (see :func:`match`), so a bad mask in a good box counts.

    Args:
        data: Annotations and detections with masks.
        iou_threshold: Minimum box IoU of a pair.
        dilation_ratio: See :func:`mask_boundary`.
    """
    found, truth = data.detections, data.annotations
    assert found.masks is not None
    assert truth.masks is not None
    matches = match(data, "bbox", iou_threshold)
    # an object without a mask says nothing about masks
    detections = np.flatnonzero(
        matches.correct & np.append(truth.masked, False)[matches.annotation]
    )
    objects = matches.annotation[detections]
    masks = np.zeros(len(found))
    for (rows, columns), iou in zip(data.images(), data.overlaps("segm"), strict=True):
        own = np.flatnonzero(matches.annotation[rows] >= 0)
        masks[rows.start + own] = iou[own, matches.annotation[rows][own] - columns.start]
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
    )


def mask_quality_by_size(masks: MaskQuality) -> dict[str, dict[str, float]]:
    """Maps sizes ("all", "small", ...) to the number of pairs and their mean IoUs."""
    return {
        name: {
            "pairs": int(chosen.sum()),
            "box_iou": mean_or_nan(masks.box_iou[chosen]),
            "mask_iou": mean_or_nan(masks.mask_iou[chosen]),
            "boundary_iou": mean_or_nan(masks.boundary_iou[chosen]),
        }
        for name, chosen in by_size(masks.area).items()
    }


def by_size(area: np.ndarray) -> dict[str, np.ndarray]:
    """Maps sizes to (P,) bool: whether an object with this area has the size."""
    groups = {"all": np.ones(len(area), bool)}
    groups.update({name: (low <= area) & (area < high) for name, (low, high) in SIZES.items()})
    return groups


def mean_or_nan(values: np.ndarray) -> float:
    """Returns the mean, or NaN if there are no values."""
    return float(values.mean()) if len(values) else float("nan")


def mask_boundary(rle: dict[str, Any], dilation_ratio: float = DILATION_RATIO) -> Boundary:
    """Returns the pixels of a mask within a distance of its contour.

    This is the mask minus its erosion by a square. The image border counts as contour. The distance
    is `dilation_ratio` times the image's diagonal, rounded, at least 1 pixel.

    Args:
        rle: Compressed RLE.
        dilation_ratio: 0.02 in the paper.

    Returns:
        See :data:`Boundary`; without pixels for an empty mask.
    """
    left, top, width, height = (int(v) for v in mask_util.toBbox(rle))
    if width == 0 or height == 0:
        return 0, 0, np.zeros((0, 0), np.uint8)
    distance = max(1, round(dilation_ratio * float(np.hypot(*rle["size"]))))
    inside = mask_util.decode(rle)[top : top + height, left : left + width]
    # the mask is empty outside of its box, so a border of one pixel is enough
    padded = cv2.copyMakeBorder(inside, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    square = np.ones((2 * distance + 1, 2 * distance + 1), np.uint8)
    return left, top, inside - cv2.erode(padded, square)[1:-1, 1:-1]


def boundary_iou(one: Boundary, other: Boundary) -> float:
    """Computes the IoU of two boundaries of one image; 0 if both are empty."""
    left, top = max(one[0], other[0]), max(one[1], other[1])
    right = min(boundary[0] + boundary[2].shape[1] for boundary in (one, other))
    bottom = min(boundary[1] + boundary[2].shape[0] for boundary in (one, other))
    common = 0
    if left < right and top < bottom:
        parts = [p[top - y : bottom - y, left - x : right - x] for x, y, p in (one, other)]
        common = int(np.count_nonzero(parts[0] & parts[1]))
    union = int(np.count_nonzero(one[2])) + int(np.count_nonzero(other[2])) - common
    return common / union if union else 0.0


class _BoundaryEvaluation(COCOeval):
    """COCO's evaluation of masks by min(mask IoU, Boundary IoU)."""

    dilation_ratio = DILATION_RATIO

    def computeIoU(self, imgId: Any, catId: int) -> Any:
        """Returns (R, G) IoUs of an image and a class, detections by descending score, or []."""
        iou = super().computeIoU(imgId, catId)
        truth, found = self._gts[imgId, catId], self._dts[imgId, catId]
        if not len(iou):
            return iou
        order = np.argsort([-d["score"] for d in found], kind="mergesort")
        crowd = np.array([bool(g["iscrowd"]) for g in truth])
        boundaries: dict[int, Boundary] = {}
        # skips most pairs: below the lowest threshold the boundary does not matter
        for row, column in zip(*np.nonzero((iou >= self.params.iouThrs[0]) & ~crowd), strict=True):
            pair = []
            for annotation in (found[order[row]], truth[column]):
                key = id(annotation)
                if key not in boundaries:
                    boundaries[key] = mask_boundary(annotation["segmentation"], self.dilation_ratio)
                pair.append(boundaries[key])
            iou[row, column] = min(iou[row, column], boundary_iou(*pair))
        return iou


def boundary_ap(data: EvaluationData, dilation_ratio: float = DILATION_RATIO) -> dict[str, Any]:
    """Computes COCO's metrics of masks with Boundary IoU.

    Args:
        data: Annotations and detections with masks.
        dilation_ratio: See :func:`mask_boundary`.

    Returns:
        Metrics in percent (NaN if undefined), and "per_class", which maps class names to AP.
    """
    rows = data.results("segm")
    with contextlib.redirect_stdout(io.StringIO()):
        truth = data.coco_with_masks
        found = truth.loadRes(rows) if rows else _without_annotations(truth)
        evaluation = _BoundaryEvaluation(truth, found, "segm")
        evaluation.dilation_ratio = dilation_ratio
        evaluation.params.imgIds = list(data.image_ids)
        evaluation.params.catIds = list(data.category_ids)
        evaluation.params.maxDets = list(data.max_dets)
        evaluation.evaluate()
        evaluation.accumulate()
    numbers = summarize(evaluation)
    metrics: dict[str, Any] = dict(
        zip(METRIC_NAMES["segm"], map(_percent, numbers.stats), strict=True)
    )
    names = dict(zip(data.category_ids, data.classes, strict=True))
    metrics["per_class"] = {
        names[category]: _percent(value) for category, value in numbers.per_class.items()
    }
    return metrics


def _percent(value: float) -> float:
    return float(value * 100) if value >= 0 else float("nan")


def _without_annotations(truth: COCO) -> COCO:
    empty = COCO()  # loadRes refuses an empty list
    empty.dataset = {**truth.dataset, "annotations": []}
    empty.createIndex()
    return empty
