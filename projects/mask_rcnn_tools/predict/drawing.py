"""Which results are drawn, and the picture of them."""

from __future__ import annotations

import numpy as np

from mask_rcnn_tools.drawing.painter import paint
from mask_rcnn_tools.drawing.results import proposal_marks, result_marks
from mask_rcnn_tools.predict.options import Options
from mask_rcnn_tools.predict.predictor import Predictor, Results

_THRESHOLD = 0.5
_PROPOSALS_DRAWN = 20


def chosen(results: Results, options: Options, is_rpn: bool) -> Results:
    """The results that are drawn, those of high scores first."""
    threshold, top_k = options.threshold, options.top_k
    if threshold is None:
        threshold = 0.0 if is_rpn else _THRESHOLD
    if top_k is None and is_rpn:
        top_k = _PROPOSALS_DRAWN
    good = [result for result in results if result["score"] >= threshold]
    return sorted(good, key=lambda result: -result["score"])[:top_k]


def draw(
    pixels: np.ndarray, results: Results, predictor: Predictor, options: Options
) -> np.ndarray:
    """Draws results that were chosen.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        results: Of this image.
        predictor: Whose results they are.
        options: How to draw.

    Returns:
        uint8 RGB picture.
    """
    if predictor.is_rpn:
        marks = proposal_marks(results)
    else:
        marks = result_marks(results, predictor.classes, options.color_by)
    return paint(
        pixels,
        marks,
        skeleton=predictor.skeleton,
        zoom=options.scale,
        keypoint_threshold=options.keypoint_threshold,
    )


def summary(results: Results, predictor: Predictor, best: float | None = None) -> str:
    """What was found in words: "2 person (98 %, 71 %), 1 mug (55 %)", at most four scores each.

    Args:
        results: those that are drawn.
        predictor: whose results they are.
        best: the highest score of all; told where nothing is drawn.
    """
    if predictor.is_rpn:
        return f"{len(results)} proposals drawn"
    scores: dict[str, list[str]] = {}
    for result in results:
        name = predictor.classes.name(predictor.classes.index(result["category_id"]))
        scores.setdefault(name, []).append(f"{100 * result['score']:.0f}")
    parts = []
    for name, found in scores.items():
        shown = [*found[:4], *["..."] * (len(found) > 4)]
        parts.append(f"{len(found)} {name} ({', '.join(shown)} %)")
    nothing = "nothing" if best is None else f"nothing (best score {100 * best:.0f} %)"
    return ", ".join(parts) or nothing
