"""Average precision from ready-made true and false positives.

Shapes: R detections, C classes.
"""

from __future__ import annotations

import numpy as np

_RECALLS = np.arange(101) / 100


def average_precision(correct: np.ndarray, positives: int) -> float:
    """AP over 101 points of recall, as COCO and TIDE compute it.

    Args:
        correct: (R,) bool, true positives, in the order of falling score.
        positives: number of objects to be found.

    Returns:
        A fraction; 0 without detections or objects.
    """
    if positives == 0 or len(correct) == 0:
        return 0.0
    true = np.cumsum(correct)
    precision = true / np.arange(1, len(correct) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(true / positives, _RECALLS, side="left")
    reached = places[places < len(precision)]
    return float(precision[reached].sum() / len(_RECALLS))


def class_average_precisions(
    category: np.ndarray, score: np.ndarray, correct: np.ndarray, positives: np.ndarray
) -> np.ndarray:
    """AP of each class at one IoU threshold.

    Args:
        category: (R,) class indices.
        score: (R,); of equal ones the earlier counts as higher.
        correct: (R,) bool.
        positives: (C,) numbers of objects.

    Returns:
        (C,) fractions; NaN for a class with neither objects nor detections.
    """
    order = np.lexsort((-score, category))
    ends = np.searchsorted(category[order], np.arange(len(positives) + 1))
    values = np.full(len(positives), np.nan)
    for index, count in enumerate(positives.tolist()):
        own = correct[order[ends[index] : ends[index + 1]]]
        if count or len(own):
            values[index] = average_precision(own, count)
    return values
