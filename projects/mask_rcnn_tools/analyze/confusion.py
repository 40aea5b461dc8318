"""The confusion matrix of a detector: which class is taken for which, and for the background.

Shapes: C classes; the matrices are (C + 1, C + 1), the last index being the background.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mask_rcnn_tools.analyze.detections import Material
from mask_rcnn_tools.analyze.matching import match


@dataclass(frozen=True)
class Confusion:
    """Counts of pairs.

    Attributes:
        counts: (C + 1, C + 1), rows: the object's class (last: nothing was there), columns: the
            detection's class (last: nothing was found).
        classes: the C names.
        score_threshold: of the detections that count.
        iou_threshold: of a pair.
    """

    counts: np.ndarray
    classes: tuple[str, ...]
    score_threshold: float
    iou_threshold: float

    @property
    def by_truth(self) -> np.ndarray:
        """Shares of each row, which sums to 1: what became of the objects of a class."""
        return _shares(self.counts, axis=1)

    @property
    def by_prediction(self) -> np.ndarray:
        """Shares of each column, which sums to 1: what the detections of a class were."""
        return _shares(self.counts, axis=0)

    def confused(self, most: int = 10) -> list[tuple[str, str, int, float]]:
        """The most frequent confusions of two classes: object's, detection's, number, share.

        The share is of the objects of the class. Pairs that do not occur are left out.
        """
        counts = self.counts[:-1, :-1].copy()
        np.fill_diagonal(counts, 0)
        order = np.argsort(-counts, axis=None, kind="stable")[:most]
        rows, columns = np.unravel_index(order, counts.shape)
        return [
            (self.classes[r], self.classes[c], int(counts[r, c]), float(self.by_truth[r, c]))
            for r, c in zip(rows.tolist(), columns.tolist(), strict=True)
            if counts[r, c]
        ]


def confusion_matrix(
    material: Material, task: str, score_threshold: float = 0.5, iou_threshold: float = 0.5
) -> Confusion:
    """Counts what was taken for what.

    In the order of falling score each detection takes the object not taken yet with which it has
    the highest IoU of at least the threshold, whatever the classes. What is left over counts as
    background; a detection that is left over in a crowd region of any class does not count.

    Args:
        material: annotations and detections.
        task: "bbox" or "segm".
        score_threshold: detections below it do not count.
        iou_threshold: least IoU of a pair.
    """
    kept = material.above(score_threshold)
    matches = match(kept, task, iou_threshold, any_class=True)
    background = len(material.classes)
    truth, found = kept.truth, kept.found
    of_truth = np.append(truth.category, background)[matches.truth]  # -1: the last
    counted = ~matches.ignored
    counts = np.zeros((background + 1, background + 1), np.int64)
    np.add.at(counts, (of_truth[counted], found.category[counted]), 1)
    unfound = (matches.detection < 0) & ~truth.crowd
    np.add.at(counts, (truth.category[unfound], background), 1)
    return Confusion(counts, material.classes, score_threshold, iou_threshold)


def _shares(counts: np.ndarray, axis: int) -> np.ndarray:
    total = counts.sum(axis=axis, keepdims=True)
    return np.divide(counts, total, out=np.zeros(counts.shape), where=total > 0)
