"""Calibration of scores: how well they predict the precision.

Shapes: R detections, B bins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mask_rcnn_tools.analyze.matching import Matches


@dataclass(frozen=True)
class Calibration:
    """Detections in bins of their score.

    Attributes:
        edges: (B + 1,) edges of the bins. A score on an edge belongs to the upper bin.
        count: (B,) numbers of detections.
        score: (B,) mean scores; NaN in an empty bin.
        precision: (B,) shares of true positives; NaN in an empty bin.
        expected_error: Expected calibration error (Guo et al., ICML 2017): mean over detections of
            |precision - score| of their bin; NaN without detections.
        largest_error: Largest |precision - score| of a bin; NaN without detections.
    """

    edges: np.ndarray
    count: np.ndarray
    score: np.ndarray
    precision: np.ndarray
    expected_error: float
    largest_error: float


def calibration(score: np.ndarray, matches: Matches, bins: int = 10) -> Calibration:
    """Compares scores with the precision, in bins of the score.

    Args:
        score: (R,) scores of the detections.
        matches: Their matches. Detections in crowd regions do not count.
        bins: Number of bins of equal width.
    """
    counted = ~matches.ignored
    score, correct = score[counted], matches.correct[counted]
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip((score * bins).astype(int), 0, bins - 1)
    count = np.bincount(place, minlength=bins)

    def mean(values: np.ndarray) -> np.ndarray:
        total = np.bincount(place, weights=values, minlength=bins)
        return np.divide(total, count, out=np.full(bins, np.nan), where=count > 0)

    average, precision = mean(score), mean(correct.astype(float))
    gap = np.abs(precision - average)
    expected = largest = float("nan")
    if count.any():
        expected = float(np.nansum(gap * count) / count.sum())
        largest = float(np.nanmax(gap))
    return Calibration(edges, count, average, precision, expected, largest)


@dataclass(frozen=True)
class BestThreshold:
    """The score threshold with the highest F1.

    Attributes:
        score: The threshold; NaN without detections.
        f1: F1 at the threshold.
        precision: Precision at the threshold.
        recall: Recall at the threshold.
    """

    score: float
    f1: float
    precision: float
    recall: float


def best_threshold(score: np.ndarray, matches: Matches, objects: int) -> BestThreshold:
    """Finds the score threshold with the highest F1, the highest one if several are equal.

    Args:
        score: (R,) scores of the detections.
        matches: Their matches. Detections in crowd regions do not count.
        objects: Number of objects.
    """
    counted = ~matches.ignored
    score, correct = score[counted], matches.correct[counted]
    if not len(score) or objects == 0:
        return BestThreshold(float("nan"), 0.0, 0.0, 0.0)
    order = np.argsort(-score, kind="stable")
    true = np.cumsum(correct[order])
    kept = np.arange(1, len(order) + 1)
    last = np.append(np.diff(score[order]) != 0, True)  # a threshold keeps or drops all of a score
    f1 = np.where(last, 2 * true / (kept + objects), -1.0)
    best = int(f1.argmax())
    return BestThreshold(
        float(score[order][best]),
        float(f1[best]),
        float(true[best] / kept[best]),
        float(true[best] / objects),
    )
