"""Which detection found which object.

Shapes: R detections and G annotations of a data set; R_i, G_i of an image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mask_rcnn_tools.analyze.detections import Material


@dataclass(frozen=True)
class Matches:
    """Detections and the objects that they found.

    Attributes:
        truth: (R,) index of the annotation found; -1: none.
        iou: (R,) IoU with it; 0: none.
        ignored: (R,) bool: found nothing, but lies in a crowd region of its class.
        detection: (G,) index of the detection that found the annotation; -1: none.
    """

    truth: np.ndarray
    iou: np.ndarray
    ignored: np.ndarray
    detection: np.ndarray

    @property
    def correct(self) -> np.ndarray:
        """(R,) bool: true positives."""
        return self.truth >= 0


def match(
    material: Material, task: str, iou_threshold: float = 0.5, any_class: bool = False
) -> Matches:
    """Matches detections with annotations, greedily as TIDE and COCO do.

    In the order of falling score each detection takes, of the objects of its class in its image
    that are not taken yet, the one with which it has the highest IoU, if that is at least the
    threshold. Crowd regions are not taken; a detection without an object that lies to more than
    the threshold in one is neither right nor wrong.

    Args:
        material: annotations and detections.
        task: "bbox" or "segm": what IoU is of.
        iou_threshold: least IoU of a match.
        any_class: match whatever the classes are.
    """
    truth, found = material.truth, material.found
    matched = np.full(len(found), -1)
    matched_iou = np.zeros(len(found))
    ignored = np.zeros(len(found), bool)
    detection = np.full(len(truth), -1)
    for (rows, columns), iou in zip(material.images(), material.overlaps(task), strict=True):
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
