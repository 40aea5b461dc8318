"""Whether scores are probabilities: reliability of a detector's confidence.

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
        edges: (B + 1,) of the bins; a score on an edge belongs to the bin above.
        count: (B,) detections.
        score: (B,) mean score; NaN in an empty bin.
        precision: (B,) share of true positives; NaN in an empty bin.
        expected_error: mean over detections of |precision - score| of their bin, the expected
            calibration error (Guo et al., ICML 2017); NaN without detections.
        largest_error: largest |precision - score| of a bin; NaN without detections.
    """

    edges: np.ndarray
    count: np.ndarray
    score: np.ndarray
    precision: np.ndarray
    expected_error: float
    largest_error: float


def calibration(score: np.ndarray, matches: Matches, bins: int = 10) -> Calibration:
    """Compares scores with the share of true positives.

    Args:
        score: (R,) of the detections.
        matches: which of them are true positives; those in crowd regions are left out.
        bins: of equal width.
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
class Threshold:
    """The score threshold with the highest F1.

    Attributes:
        score: detections of at least this score are kept; NaN without detections.
        f1: at this threshold, 0 to 1.
        precision: at this threshold.
        recall: at this threshold.
    """

    score: float
    f1: float
    precision: float
    recall: float


def best_threshold(score: np.ndarray, matches: Matches, objects: int) -> Threshold:
    """The score threshold with the highest F1; of equals the highest.

    Args:
        score: (R,) of the detections.
        matches: which of them are true positives; those in crowd regions are left out.
        objects: number of objects to be found.
    """
    counted = ~matches.ignored
    score, correct = score[counted], matches.correct[counted]
    if not len(score) or objects == 0:
        return Threshold(float("nan"), 0.0, 0.0, 0.0)
    order = np.argsort(-score, kind="stable")
    true = np.cumsum(correct[order])
    kept = np.arange(1, len(order) + 1)
    last = np.append(np.diff(score[order]) != 0, True)  # equal scores go together
    f1 = np.where(last, 2 * true / (kept + objects), -1.0)
    best = int(f1.argmax())
    return Threshold(
        float(score[order][best]),
        float(f1[best]),
        float(true[best] / kept[best]),
        float(true[best] / objects),
    )
