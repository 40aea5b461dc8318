"""Precision over recall, from the arrays that COCO's evaluation sums its APs up from.

Shapes: T IoU thresholds (0.50 to 0.95), R recalls (0.00 to 1.00 in steps of 0.01), K categories.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

import numpy as np

RECALLS = 101
"""COCO's recall points, 0.00 to 1.00."""

Class = TypeVar("Class", bound=Hashable)

Curve = tuple[float, ...]
"""Precision, a fraction, at each of the :data:`RECALLS`; interpolated, so that it never rises."""


class PrecisionRecall(NamedTuple, Generic[Class]):
    """Curves of one task, over all sizes and with the largest number of detections.

    A curve is None if there are no objects.
    """

    mean: Curve | None  # over IoU 0.50 to 0.95 and over classes; its mean is AP
    at_50: Curve | None  # at IoU 0.50, over classes; its mean is AP50
    per_class_at_50: Mapping[Class, Curve | None]  # class to its curve at IoU 0.50

    def renamed(self, names: Mapping[Class, str]) -> PrecisionRecall[str]:
        """The same with other names of the classes, in the order of `names`."""
        curves = {names[c]: self.per_class_at_50[c] for c in names}
        return PrecisionRecall(self.mean, self.at_50, curves)


def precision_recall(precision: np.ndarray, categories: Sequence[int]) -> PrecisionRecall[int]:
    """Takes the curves out of the `precision` array of a COCO evaluation.

    Args:
        precision: (T, R, K, sizes, limits), fractions; -1 for a category without objects. The
            first size is "all", the last limit that which AP is computed with.
        categories: The K category ids, in order.
    """
    # (T, R, K); a category without objects is -1 everywhere, others nowhere
    values = np.asarray(precision)[:, :, :, 0, -1]
    known = [index for index in range(values.shape[2]) if values[0, 0, index] > -1]
    per_class = {
        category: _curve(values[0, :, index]) if index in known else None
        for index, category in enumerate(categories)
    }
    if not known:
        return PrecisionRecall(None, None, per_class)
    values = values[:, :, known]
    mean, at_50 = _curve(values.mean(axis=(0, 2))), _curve(values[0].mean(axis=1))
    return PrecisionRecall(mean, at_50, per_class)


def _curve(values: np.ndarray) -> Curve:
    return tuple(float(v) for v in values)
