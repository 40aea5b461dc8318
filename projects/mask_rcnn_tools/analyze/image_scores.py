"""How well each image went, to find the best and the worst.

Shapes: N images, R detections, G annotations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mask_rcnn_tools.analyze.detections import Material
from mask_rcnn_tools.analyze.error_types import CORRECT, ErrorTypes, error_types


@dataclass(frozen=True)
class ImageScores:
    """Quality of images.

    Attributes:
        material: with the detections that count alone.
        errors: their types.
        quality: (N,) sum of the IoU of true positives / (TP + FP / 2 + FN / 2), which is the
            panoptic quality (Kirillov et al., CVPR 2019) of all objects of an image together; from
            0 to 1, NaN for an image with neither objects nor detections.
        true, false, unfound: (N,) TP, FP, FN.
    """

    material: Material
    errors: ErrorTypes
    quality: np.ndarray
    true: np.ndarray
    false: np.ndarray
    unfound: np.ndarray

    def worst(self, count: int) -> list[int]:
        """Indices of images, the worst first; of equals those with the most mistakes."""
        mistakes = self.false + self.unfound
        return self._first(np.lexsort((-mistakes, self.quality)), count)

    def best(self, count: int) -> list[int]:
        """Indices of images, the best first; of equals those with the most objects."""
        return self._first(np.lexsort((-self.true, -self.quality)), count)

    def _first(self, order: np.ndarray, count: int) -> list[int]:
        return order[np.isfinite(self.quality[order])][:count].tolist()


def image_scores(
    material: Material,
    task: str,
    score_threshold: float = 0.5,
    iou_threshold: float = 0.5,
    background_threshold: float = 0.1,
) -> ImageScores:
    """Rates each image by the detections of at least `score_threshold`.

    Args:
        material: annotations and detections.
        task: "bbox" or "segm".
        score_threshold: detections below it do not count.
        iou_threshold: see :func:`error_types`.
        background_threshold: see :func:`error_types`.
    """
    kept = material.above(score_threshold)
    errors = error_types(kept, task, iou_threshold, background_threshold)
    matches, count = errors.matches, len(material.image_ids)
    correct = errors.kind == CORRECT
    image = kept.found.image
    true = np.bincount(image[correct], minlength=count)
    false = np.bincount(image[~correct & ~matches.ignored], minlength=count)
    unfound = (matches.detection < 0) & ~kept.truth.crowd
    missing = np.bincount(kept.truth.image[unfound], minlength=count)
    overlap = np.bincount(image[correct], weights=matches.iou[correct], minlength=count)
    total = true + (false + missing) / 2
    quality = np.divide(overlap, total, out=np.full(count, np.nan), where=total > 0)
    return ImageScores(kept, errors, quality, true, false, missing)
