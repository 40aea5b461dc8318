"""Quality of the detections of each image.

Shapes: N images, R detections, G annotations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mask_rcnn_tools.analyze.error_types import CORRECT, ErrorTypes, error_types
from mask_rcnn_tools.analyze.evaluation_data import EvaluationData


@dataclass(frozen=True)
class ImageScores:
    """Quality of images.

    Attributes:
        data: Annotations, and the detections of at least the score threshold.
        errors: Error types of these detections.
        quality: (N,) panoptic quality (Kirillov et al., CVPR 2019) of all classes together: the sum
            of the IoU of true positives / (TP + FP / 2 + FN / 2). NaN for an image without objects
            and detections.
        true: (N,) numbers of true positives.
        false: (N,) numbers of false positives.
        unfound: (N,) numbers of false negatives.
    """

    data: EvaluationData
    errors: ErrorTypes
    quality: np.ndarray
    true: np.ndarray
    false: np.ndarray
    unfound: np.ndarray

    def worst(self, count: int) -> list[int]:
        """Returns indices of the worst images, ties in descending order of mistakes."""
        mistakes = self.false + self.unfound
        return self._first(np.lexsort((-mistakes, self.quality)), count)

    def best(self, count: int) -> list[int]:
        """Returns indices of the best images, ties in descending order of objects."""
        return self._first(np.lexsort((-self.true, -self.quality)), count)

    def _first(self, order: np.ndarray, count: int) -> list[int]:
        return order[np.isfinite(self.quality[order])][:count].tolist()


def image_scores(
    data: EvaluationData,
    task: str,
    score_threshold: float = 0.5,
    iou_threshold: float = 0.5,
    background_threshold: float = 0.1,
) -> ImageScores:
    """Rates each image by the detections of at least `score_threshold`.

    Args:
        data: Annotations and detections.
        task: "bbox" or "segm".
        score_threshold: Minimum score of a detection.
        iou_threshold: See :func:`error_types`.
        background_threshold: See :func:`error_types`.
    """
    kept = data.above(score_threshold)
    errors = error_types(kept, task, iou_threshold, background_threshold)
    matches, count = errors.matches, len(data.image_ids)
    correct = errors.kind == CORRECT
    image = kept.detections.image
    true = np.bincount(image[correct], minlength=count)
    false = np.bincount(image[~correct & ~matches.ignored], minlength=count)
    unfound = (matches.detection < 0) & ~kept.truth(task).crowd
    missing = np.bincount(kept.annotations.image[unfound], minlength=count)
    overlap = np.bincount(image[correct], weights=matches.iou[correct], minlength=count)
    total = true + (false + missing) / 2
    quality = np.divide(overlap, total, out=np.full(count, np.nan), where=total > 0)
    return ImageScores(kept, errors, quality, true, false, missing)
