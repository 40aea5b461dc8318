"""Comparison of the outputs of an exported file and its model, image by image.

Detections are matched by class and place, because rounding may reorder almost equal scores.

Shapes: R detections.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from tabulate import tabulate

Outputs = Mapping[str, np.ndarray]

TOLERANCES = {"boxes": 0.05, "scores": 1e-3, "masks": 0.01, "keypoints": 0.05}
"""Maximum differences: pixels, probabilities, probabilities, pixels.

For images above 250 pixels, the limit in pixels is :data:`OF_SIDE` of the longer side, because
rounding errors in places are proportional to the size of the image.
"""

OF_SIDE = 2e-4

PASTED_TOLERANCE = 1e-3
"""Maximum share of different pixels of a pasted mask (probabilities close to 0.5)."""

_KEYPOINT_SCORE = 5e-3
_NEXT_PIXEL = 1.6
_BORDERLINE = 1e-4


@dataclass
class ImageComparison:
    """Comparison for one image.

    Attributes:
        size: Height and width.
        expected: Number of detections of the model.
        got: Number of detections of the file.
        largest: Largest difference of each output, over matched detections.
        problems: Descriptions of differences above the tolerance.
        borderline: Number of unmatched detections whose scores are at the threshold or equal the
            lowest kept score, so that rounding decides.
    """

    size: tuple[int, int]
    expected: int
    got: int
    largest: dict[str, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    borderline: int = 0


def compare_outputs(
    expected: Outputs, got: Outputs, size: tuple[int, int], threshold: float, limit: int
) -> ImageComparison:
    """Compares the outputs for one image.

    Args:
        expected: Outputs of the model: "boxes" (R, 4), "scores" (R,), "classes" (R,), and "masks"
            and "keypoints" as in the file.
        got: Outputs of the file.
        size: Height and width of the image.
        threshold: Score threshold of detections.
        limit: Maximum number of detections.
    """
    result = ImageComparison(size, len(expected["boxes"]), len(got["boxes"]))
    if set(expected) != set(got):
        result.problems.append(f"outputs are {sorted(got)}, not {sorted(expected)}")
        return result
    for name, value in expected.items():
        if value.dtype != got[name].dtype or value.shape[1:] != got[name].shape[1:]:
            result.problems.append(
                f"{name} is {got[name].dtype} (R, {got[name].shape[1:]}), not {value.dtype} (R, "
                f"{value.shape[1:]})"
            )
    if result.problems:
        return result
    pairs = _match(expected, got)
    lone = [
        *(float(expected["scores"][i]) for i in set(range(result.expected)) - set(pairs)),
        *(float(got["scores"][i]) for i in set(range(result.got)) - set(pairs.values())),
    ]
    edges = [threshold]
    edges += [float(o["scores"].min()) for o in (expected, got) if len(o["scores"]) == limit]
    wrong = [score for score in lone if min(abs(score - e) for e in edges) > _BORDERLINE]
    result.borderline = len(lone) - len(wrong)
    if wrong:
        result.problems.append(
            f"{len(wrong)} detections, up to a score of {max(wrong):.4f}, have no counterpart"
        )
    rows, others = list(pairs), list(pairs.values())
    for name in expected:
        if name != "classes" and rows:
            _compare(name, expected[name][rows], got[name][others], result)
    return result


def format_comparisons(comparisons: list[ImageComparison]) -> str:
    """Formats a table of the largest differences for each image."""
    names = [n for n in ("boxes", "scores", "masks", "keypoints") if _any(n, comparisons)]
    rows = [
        [
            f"{c.size[0]} x {c.size[1]}",
            c.expected,
            c.got,
            *(f"{c.largest[n]:.1e}" if n in c.largest else "-" for n in names),
            "; ".join(c.problems) or f"equal{f', {c.borderline} borderline' * bool(c.borderline)}",
        ]
        for c in comparisons
    ]
    headers = ["image", "model", "file", *names, "verdict"]
    return tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True)


def _any(name: str, comparisons: list[ImageComparison]) -> bool:
    return any(name in c.largest for c in comparisons)


def _match(expected: Outputs, got: Outputs) -> dict[int, int]:
    """Maps indices of the model's to the file's detections: same class, nearest box."""
    pairs: dict[int, int] = {}
    free = np.ones(len(got["boxes"]), bool)
    for row, (box, kind) in enumerate(zip(expected["boxes"], expected["classes"], strict=True)):
        distance = np.abs(got["boxes"] - box).max(axis=1, initial=0.0)
        distance[~free | (got["classes"] != kind)] = np.inf
        if len(distance) and distance.min() <= 1.0:
            best = int(distance.argmin())
            pairs[row], free[best] = best, False
    return pairs


def _compare(name: str, expected: np.ndarray, got: np.ndarray, result: ImageComparison) -> None:
    allowed = TOLERANCES[name]
    if name in ("boxes", "keypoints"):
        allowed = max(allowed, OF_SIDE * max(result.size))
    if expected.dtype == bool:
        sizes = np.maximum(expected.sum(axis=(1, 2)), 1)
        difference = float(((expected != got).sum(axis=(1, 2)) / sizes).max())
        allowed = PASTED_TOLERANCE
    elif name == "keypoints":
        difference = _keypoint_difference(expected, got, result)
    else:
        difference = float(np.abs(expected.astype(np.float64) - got).max(initial=0.0))
    result.largest[name] = difference
    if not difference <= allowed:  # NaN, too
        result.problems.append(f"{name} differ by {difference:.2g}, allowed is {allowed:g}")


def _keypoint_difference(expected: np.ndarray, got: np.ndarray, result: ImageComparison) -> float:
    """Returns the largest difference in pixels. Neighbors of equal score count as equal."""
    apart = np.abs(expected[..., :2] - got[..., :2]).max(axis=2)
    scores = np.abs(expected[..., 2] - got[..., 2])
    if not scores.max(initial=0.0) <= _KEYPOINT_SCORE:
        result.problems.append(f"keypoints' scores differ by {scores.max():.2g}")
    tied = (apart <= _NEXT_PIXEL) & (scores <= _BORDERLINE)
    return float(np.where(tied & (apart > TOLERANCES["keypoints"]), 0.0, apart).max(initial=0.0))
