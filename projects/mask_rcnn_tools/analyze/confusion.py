"""Confusion matrix of a detector.

Shapes: C classes. Matrices are (C + 1, C + 1); the last index is the background.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mask_rcnn_tools.analyze.evaluation_data import EvaluationData
from mask_rcnn_tools.analyze.matching import match


@dataclass(frozen=True)
class Confusion:
    """Counts of pairs of objects and detections.

    Attributes:
        counts: (C + 1, C + 1). Rows are classes of objects (last: no object), columns are classes
            of detections (last: no detection).
        classes: C names.
        score_threshold: Minimum score of a detection.
        iou_threshold: Minimum IoU of a pair.
    """

    counts: np.ndarray
    classes: tuple[str, ...]
    score_threshold: float
    iou_threshold: float

    @property
    def by_truth(self) -> np.ndarray:
        """Rows normalized to 1: detected classes of the objects of a class."""
        return _shares(self.counts, axis=1)

    @property
    def by_prediction(self) -> np.ndarray:
        """Columns normalized to 1: true classes of the detections of a class."""
        return _shares(self.counts, axis=0)

    def occurring(self) -> Confusion:
        """Returns the same for the classes that an object or a detection has."""
        counts = self.counts
        there = (counts.sum(axis=0) + counts.sum(axis=1))[:-1] > 0
        kept = np.append(np.flatnonzero(there), len(self.classes))
        return replace(
            self,
            counts=counts[np.ix_(kept, kept)],
            classes=tuple(self.classes[k] for k in kept[:-1]),
        )

    def confused(self, most: int = 10) -> list[tuple[str, str, int, float]]:
        """Returns the most frequent confusions: true class, detected class, count, share.

        The share is relative to the objects of the true class.
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
    data: EvaluationData, task: str, score_threshold: float = 0.5, iou_threshold: float = 0.5
) -> Confusion:
    """Computes the confusion matrix.

    In descending order of score, each detection is matched to the free object with the highest IoU
    of at least the threshold, regardless of the classes. Unmatched objects and detections are
    confused with the background, except detections in crowd regions, which do not count.

    Args:
        data: Annotations and detections.
        task: "bbox" or "segm".
        score_threshold: Minimum score of a detection.
        iou_threshold: Minimum IoU of a pair.
    """
    kept = data.above(score_threshold)
    matches = match(kept, task, iou_threshold, any_class=True)
    background = len(data.classes)
    truth, found = kept.truth(task), kept.detections
    of_truth = np.append(truth.category, background)[matches.annotation]  # -1: the last
    counted = ~matches.ignored
    counts = np.zeros((background + 1, background + 1), np.int64)
    np.add.at(counts, (of_truth[counted], found.category[counted]), 1)
    unfound = (matches.detection < 0) & ~truth.crowd
    np.add.at(counts, (truth.category[unfound], background), 1)
    return Confusion(counts, data.classes, score_threshold, iou_threshold)


def _shares(counts: np.ndarray, axis: int) -> np.ndarray:
    total = counts.sum(axis=axis, keepdims=True)
    return np.divide(counts, total, out=np.zeros(counts.shape), where=total > 0)
