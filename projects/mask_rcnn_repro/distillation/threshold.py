"""Score threshold above which a prediction becomes an annotation.

At the threshold of Radosavovic et al. (2017), an unlabeled image has on average as many generated
instances as a labeled image has labeled ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class LabeledAverage:
    """Number of instances per labeled image.

    Attributes:
        images: Number of all images, including those without instances.
        instances: Number of instances, without crowd regions.
        with_keypoints: Whether only instances with a labeled keypoint are counted.
    """

    images: int
    instances: int
    with_keypoints: bool

    @property
    def per_image(self) -> float:
        """Instances per image."""
        return self.instances / self.images


def labeled_average(dicts: Sequence[Mapping[str, Any]], *, with_keypoints: bool) -> LabeledAverage:
    """Counts the instances of labeled images. Images without instances count, too.

    Args:
        dicts: Detectron2 data set dicts, not filtered, at least one.
        with_keypoints: Count only instances with a labeled keypoint (visibility 1 or 2).
    """
    annotations = [a for record in dicts for a in record.get("annotations", ())]
    counted = [a for a in annotations if not a.get("iscrowd", 0)]
    if with_keypoints:
        counted = [a for a in counted if any(v > 0 for v in a.get("keypoints", ())[2::3])]
    return LabeledAverage(len(dicts), len(counted), with_keypoints)


@dataclass(frozen=True)
class Threshold:
    """A chosen threshold.

    Attributes:
        score: Predictions with at least this score are kept. Infinity without predictions.
        kept: Number of kept predictions.
        predictions: Number of all predictions.
        images: Number of unlabeled images, including those without predictions.
        wanted: Target number of instances per image.
    """

    score: float
    kept: int
    predictions: int
    images: int
    wanted: float

    @property
    def per_image(self) -> float:
        """Generated instances per image."""
        return self.kept / self.images

    @property
    def short_of_predictions(self) -> bool:
        """Whether all predictions together are clearly fewer than wanted."""
        return self.kept == self.predictions and self.kept < 0.95 * self.wanted * self.images


def choose_threshold(scores: Iterable[float], images: int, wanted: float) -> Threshold:
    """Chooses the score that keeps about `wanted` predictions per image.

    Predictions of equal score are kept or dropped together. The number of kept predictions is the
    possible one nearest to ``wanted * images``, the smaller one of two. It is at least 1.

    Args:
        scores: Scores of all predictions on all images, in any order. May be empty.
        images: Number of images, at least 1.
        wanted: Target number of instances per image, at least 0.
    """
    ordered = np.sort(np.asarray(list(scores), dtype=np.float64))[::-1]
    if not len(ordered):
        return Threshold(float("inf"), 0, 0, images, wanted)
    last_of_score = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    kept = last_of_score + 1  # for each distinct score as the threshold
    best = int(np.argmin(np.abs(kept - wanted * images)))
    score = float(ordered[last_of_score[best]])
    return Threshold(score, int(kept[best]), len(ordered), images, wanted)
