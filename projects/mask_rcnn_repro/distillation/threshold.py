"""The score above which a prediction becomes an annotation.

Radosavovic et al. 2017: the threshold is the one for which the generated instances of
an unlabeled image are on average as many as the labeled instances of a labeled image.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class LabeledAverage:
    """How many instances an image of the labeled set has.

    Attributes:
        images: all images of the set, those without any instance among them.
        instances: instances in them, without crowd regions; for keypoints those with at least one
            labelled keypoint.
        with_keypoints: whether instances without labelled keypoints were left out.
    """

    images: int
    instances: int
    with_keypoints: bool

    @property
    def per_image(self) -> float:
        """Instances an image."""
        return self.instances / self.images


def labeled_average(dicts: Sequence[Mapping[str, Any]], *, with_keypoints: bool) -> LabeledAverage:
    """Counts the instances of labeled images.

    All images count, as all unlabeled images do: among both there are some without objects.

    Args:
        dicts: Detectron2 data set dicts, not filtered, at least one.
        with_keypoints: count only instances with a labelled keypoint (visibility 1 or 2).
    """
    instances = sum(
        _counts(annotation, with_keypoints)
        for record in dicts
        for annotation in record.get("annotations", ())
    )
    return LabeledAverage(len(dicts), instances, with_keypoints)


def _counts(annotation: Mapping[str, Any], with_keypoints: bool) -> bool:
    if annotation.get("iscrowd", 0):
        return False
    return not with_keypoints or any(v > 0 for v in annotation.get("keypoints", ())[2::3])


@dataclass(frozen=True)
class Threshold:
    """A chosen threshold.

    Attributes:
        score: predictions with at least this score are kept; infinity where there is none.
        kept: their number.
        predictions: number of all predictions.
        images: unlabeled images, those without any prediction among them.
        wanted: instances an image that were aimed at.
    """

    score: float
    kept: int
    predictions: int
    images: int
    wanted: float

    @property
    def per_image(self) -> float:
        """Generated instances an image."""
        return self.kept / self.images

    @property
    def short_of_predictions(self) -> bool:
        """Whether even all predictions are clearly fewer than were aimed at."""
        return self.kept == self.predictions and self.kept < 0.95 * self.wanted * self.images


def choose_threshold(scores: Iterable[float], images: int, wanted: float) -> Threshold:
    """Chooses the score that keeps about `wanted` predictions an image.

    Predictions of equal scores are kept or dropped together. Of the numbers that can be kept that
    way, the one nearest to ``wanted * images`` is chosen, the smaller of two equally near ones; at
    least the best prediction stays.

    Args:
        scores: of all predictions on all images, in any order.
        images: how many these are, at least 1.
        wanted: instances an image, at least 0.
    """
    ordered = np.sort(np.asarray(list(scores), dtype=np.float64))[::-1]
    if not len(ordered):
        return Threshold(float("inf"), 0, 0, images, wanted)
    # number of predictions kept with each distinct score as the threshold
    last_of_score = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    kept = last_of_score + 1
    best = int(np.argmin(np.abs(kept - wanted * images)))
    return Threshold(
        float(ordered[last_of_score[best]]), int(kept[best]), len(ordered), images, wanted
    )
