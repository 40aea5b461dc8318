"""Matching of detections with annotations.

Shapes: R detections and G annotations of a data set; R_i, G_i of an image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mask_rcnn_tools.analyze.evaluation_data import EvaluationData


@dataclass(frozen=True)
class Matches:
    """Matches of detections and annotations.

    Attributes:
        annotation: (R,) index of the matched annotation, or -1.
        iou: (R,) IoU with it, or 0.
        ignored: (R,) bool: not matched, but in a crowd region of its class.
        detection: (G,) index of the matched detection, or -1.
    """

    annotation: np.ndarray
    iou: np.ndarray
    ignored: np.ndarray
    detection: np.ndarray

    @property
    def correct(self) -> np.ndarray:
        """(R,) bool, true positives."""
        return self.annotation >= 0


def match(
    data: EvaluationData, task: str, iou_threshold: float = 0.5, any_class: bool = False
) -> Matches:
    """Matches detections with annotations greedily, as TIDE and COCO do.

    In descending order of score, each detection is matched to the free object of its image and
    class with the highest IoU of at least the threshold. Crowd regions are never matched. An
    unmatched detection of which more than the threshold lies in one is ignored.

    Args:
        data: Annotations and detections.
        task: IoU of boxes ("bbox") or masks ("segm").
        iou_threshold: Minimum IoU of a match.
        any_class: Whether to match different classes, too.
    """
    truth, found = data.truth(task), data.detections
    matched = np.full(len(found), -1)
    matched_iou = np.zeros(len(found))
    ignored = np.zeros(len(found), bool)
    detection = np.full(len(truth), -1)
    for (rows, columns), iou in zip(data.images(), data.overlaps(task), strict=True):
        if not iou.size:
            continue
        crowd = truth.crowd[columns]
        fits = np.ones(iou.shape, bool)
        if not any_class:
            fits = found.category[rows, None] == truth.category[None, columns]
        left = np.where(fits & ~crowd, iou, -1.0)
        for row in np.flatnonzero(left.max(axis=1) >= iou_threshold).tolist():
            column = int(left[row].argmax())
            if left[row, column] >= iou_threshold:
                matched[rows.start + row] = columns.start + column
                matched_iou[rows.start + row] = left[row, column]
                detection[columns.start + column] = rows.start + row
                left[:, column] = -1
        if crowd.any():
            inside = ((iou > iou_threshold) & fits & crowd).any(axis=1)
            ignored[rows] = inside & (matched[rows] < 0)
    return Matches(matched, matched_iou, ignored, detection)
