"""Marks to draw on a picture: an object's box, mask, keypoints and label.

Shapes: (H, W) size of the image in pixels, K keypoints. Coordinates are continuous: the image goes
from 0 to W and from 0 to H, and the center of its first pixel is (0.5, 0.5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mask_rcnn_tools.drawing.colors import Color

Kind = Literal["object", "crowd", "ignored", "proposal"]


@dataclass(frozen=True)
class Mark:
    """A box, mask or keypoints to draw.

    Attributes:
        color: Red, green, blue.
        box: XYXY, or None.
        mask: (H, W) bool, or polygons, each x, y, x, y, ...; or None.
        keypoints: (K, 3): x, y, and the score or, for an annotation, the visibility (0: not
            labeled, 1: hidden, 2: visible); or None.
        label: Text at the box, or "".
        kind: Crowd regions are hatched, ignored regions dashed, proposals thin.
    """

    color: Color
    box: tuple[float, float, float, float] | None = None
    mask: np.ndarray | list[np.ndarray] | None = None
    keypoints: np.ndarray | None = None
    label: str = ""
    kind: Kind = "object"


@dataclass(frozen=True)
class Skeleton:
    """Connections and sides of keypoints.

    Attributes:
        lines: Pairs of indices.
        sides: For each keypoint "left", "right" or "".
    """

    lines: tuple[tuple[int, int], ...] = ()
    sides: tuple[str, ...] = ()

    @staticmethod
    def of(metadata: Any) -> Skeleton:
        """Reads it from Detectron2's metadata; empty without keypoints."""
        names = list(metadata.get("keypoint_names") or ())
        rules = metadata.get("keypoint_connection_rules") or ()
        lines = tuple(
            (names.index(a), names.index(b)) for a, b, *_ in rules if a in names and b in names
        )
        side = dict.fromkeys(names, "")
        for left, right in metadata.get("keypoint_flip_map") or ():
            side[left], side[right] = "left", "right"
        return Skeleton(lines, tuple(side.values()))


def by_size(marks: Sequence[Mark]) -> list[Mark]:
    """Sorts marks for drawing: crowd and ignored ones first, then from large to small."""

    def order(mark: Mark) -> tuple[bool, float]:
        x0, y0, x1, y1 = mark.box or (0.0, 0.0, 0.0, 0.0)
        return mark.kind in ("object", "proposal"), -(x1 - x0) * (y1 - y0)

    return sorted(marks, key=order)
