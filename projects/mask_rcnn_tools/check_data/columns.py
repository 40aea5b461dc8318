"""Annotations as two arrays: what checks need of each, whatever it looks like in the file.

Nothing here raises for a strange annotation: a number that is none is NaN, and ``ODD`` marks the
records that the loader would refuse or that only Python can read.

Shapes: N annotations; ints (N, 17) int64, floats (N, 14) float64, columns by the names below.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mask_rcnn_repro.data.coco.run_lengths import decode_counts

# Whole numbers; -1 where a field is missing, which only CROWD and NUM_KEYPOINTS may be.
ID, IMAGE, CATEGORY, CROWD = 0, 1, 2, 3
SEGMENT = 4  # one of the kinds below
POLYGONS, BAD_POLYGONS = 5, 6  # how many; bad ones have no 3 whole points
RUN_HEIGHT, RUN_WIDTH, RUN_TOTAL = 7, 8, 9  # of run lengths; total -1: a negative run
KEYPOINT_NUMBERS = 10  # numbers in the list; 0: no keypoints
KEYPOINTS_LABELLED, KEYPOINTS_WRONG = 11, 12  # visibility 1 or 2; none of 0, 1, 2
KEYPOINTS_GHOST = 13  # visibility 0, but not at (0, 0)
NUM_KEYPOINTS = 14  # as stated
ODD = 15  # to be looked at by itself
FIELDS = 16  # bits of the fields that are there, see FIELD_BITS
INTS = 17

# Numbers; NaN where a field is missing or none.
AREA = 0
BOX = 1  # and the next three: x, y, width, height
MASK = 5  # and the next three: x0, y0, x1, y1 of what is inside
MASK_AREA = 9  # sum of the polygons' areas, or number of pixels
POINTS = 10  # and the next three: x0, y0, x1, y1 of the labelled keypoints
FLOATS = 14

NO_MASK, IS_POLYGON, IS_RUNS = 0, 1, 2

NAMES = (
    "id",
    "image_id",
    "category_id",
    "iscrowd",
    "area",
    "bbox",
    "segmentation",
    "keypoints",
    "num_keypoints",
    "ignore",
)
"""Fields that are looked at, in the order of their bits in ``FIELDS``."""
FIELD_BITS = {name: 1 << bit for bit, name in enumerate(NAMES)}
NEEDED = sum(FIELD_BITS[name] for name in ("id", "image_id", "category_id", "bbox"))


@dataclass
class Columns:
    """Annotations of one file.

    Attributes:
        ints: (N, 17).
        floats: (N, 14).
        odd: what the file holds, of the rows that are ``ODD``, by row.
    """

    ints: np.ndarray
    floats: np.ndarray
    odd: dict[int, Any]

    def __len__(self) -> int:
        return len(self.ints)

    @property
    def boxes(self) -> np.ndarray:
        """(N, 4) XYWH in pixels."""
        return self.floats[:, BOX : BOX + 4]


def empty_rows(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to be filled: -1 and 0 in the whole numbers, NaN in the others."""
    ints = np.zeros((count, INTS), np.int64)
    ints[:, [CROWD, NUM_KEYPOINTS]] = -1
    return ints, np.full((count, FLOATS), np.nan)


def columns_of(entries: Sequence[Any]) -> Columns:
    """Reads parsed annotations, as slowly as Python does.

    Args:
        entries: what a json's "annotations" holds, objects or not.
    """
    ints, floats = empty_rows(len(entries))
    odd = {}
    for row, entry in enumerate(entries):
        fill_row(entry, ints[row], floats[row])
        if ints[row, ODD]:
            odd[row] = entry
    return Columns(ints, floats, odd)


def fill_row(entry: Any, ints: np.ndarray, floats: np.ndarray) -> None:
    """Reads one parsed annotation into its row.

    Args:
        entry: anything that json can hold.
        ints: (17,) of :func:`empty_rows`, written to.
        floats: (14,) of :func:`empty_rows`, written to.
    """
    if type(entry) is not dict:
        ints[ODD] = 1
        return
    ints[FIELDS] = sum(bit for name, bit in FIELD_BITS.items() if name in entry)
    for name, column in (
        ("id", ID),
        ("image_id", IMAGE),
        ("category_id", CATEGORY),
        ("iscrowd", CROWD),
        ("num_keypoints", NUM_KEYPOINTS),
    ):
        value = entry.get(name, 0)
        if type(value) is not int or not -(2**63) <= value < 2**63:
            ints[ODD] = 1
        elif name in entry:
            ints[column] = value
    if entry.get("iscrowd", 0) not in (0, 1) or entry.get("ignore", 0) != 0:
        ints[ODD] = 1
    if ints[FIELDS] & NEEDED != NEEDED:
        ints[ODD] = 1
    if "area" in entry:
        floats[AREA] = _number(entry["area"])
        ints[ODD] |= math.isnan(floats[AREA])
    box = _numbers(entry.get("bbox"))
    if box is None or len(box) != 4:
        ints[ODD] = 1
    else:
        floats[BOX : BOX + 4] = box
        ints[ODD] |= not np.isfinite(box).all()
    _fill_segmentation(entry.get("segmentation"), ints, floats)
    _fill_keypoints(entry.get("keypoints"), ints, floats)


def _number(value: Any) -> float:
    if type(value) not in (int, float):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def _numbers(value: Any) -> np.ndarray | None:
    """(n,) float64 of a list of numbers; too large ones are NaN. None for everything else."""
    if type(value) is not list or any(type(v) not in (int, float) for v in value):
        return None
    return np.array([_number(v) for v in value], np.float64)


def _fill_segmentation(value: Any, ints: np.ndarray, floats: np.ndarray) -> None:
    if not value:  # as the loader: null, an empty list and the like are no mask
        return
    if type(value) is dict:
        ints[SEGMENT] = IS_RUNS
        _fill_runs(value, ints, floats)
        return
    ints[SEGMENT] = IS_POLYGON
    if type(value) is not list:
        ints[ODD] = 1
        return
    low, high, area = np.full(2, np.inf), np.full(2, -np.inf), 0.0
    for polygon in value:
        numbers = _numbers(polygon)
        ints[POLYGONS] += 1
        if numbers is None or not np.isfinite(numbers).all():
            ints[ODD] = 1
            ints[BAD_POLYGONS] += 1
        elif len(numbers) < 6 or len(numbers) % 2:
            ints[BAD_POLYGONS] += 1
        else:
            points = numbers.reshape(-1, 2)
            low, high = np.minimum(low, points.min(0)), np.maximum(high, points.max(0))
            with np.errstate(over="ignore", invalid="ignore"):
                (x, y), (u, v) = points.T, np.roll(points, -1, 0).T
                area += abs(float((x * v - u * y).sum())) / 2
    if np.isfinite(low).all():
        floats[MASK : MASK + 4] = [*low, *high]
        floats[MASK_AREA] = area


def _fill_runs(value: dict[str, Any], ints: np.ndarray, floats: np.ndarray) -> None:
    size, counts = value.get("size"), value.get("counts")
    whole = type(size) is list and len(size) == 2 and all(type(n) is int for n in size)
    if type(size) is not list or not whole or not all(0 < n < 2**31 for n in size):
        ints[ODD] = 1
        return
    ints[RUN_HEIGHT], ints[RUN_WIDTH] = size
    runs = None
    if type(counts) is str:
        runs = decode_counts(counts)
    elif type(counts) is list and all(type(n) is int and abs(n) < 2**62 for n in counts):
        runs = np.array(counts, np.int64)
    if runs is None:
        ints[ODD] = 1
        return
    total = sum(runs.tolist())
    ints[RUN_TOTAL] = -1 if (runs < 0).any() or total >= 2**62 else total
    ends = np.cumsum(runs)
    inside = runs[1::2] > 0
    starts, ends = ends[0:-1:2][inside], ends[1::2][inside] - 1
    floats[MASK_AREA] = float(runs[1::2].sum())
    if ints[RUN_TOTAL] < 0 or not len(starts):
        return
    height = size[0]
    tall = starts // height != ends // height  # such a run goes on from the top of a column
    floats[MASK] = (starts // height).min()
    floats[MASK + 1] = 0 if tall.any() else (starts % height).min()
    floats[MASK + 2] = (ends // height).max() + 1
    floats[MASK + 3] = height if tall.any() else (ends % height).max() + 1


def _fill_keypoints(value: Any, ints: np.ndarray, floats: np.ndarray) -> None:
    if not value:
        return
    numbers = _numbers(value)
    if numbers is None or not np.isfinite(numbers).all():
        ints[ODD] = 1
        ints[KEYPOINT_NUMBERS] = len(numbers) if numbers is not None else -1
        return
    ints[KEYPOINT_NUMBERS] = len(numbers)
    triples = numbers[: len(numbers) // 3 * 3].reshape(-1, 3)
    labelled = (triples[:, 2] == 1) | (triples[:, 2] == 2)
    absent = triples[:, 2] == 0
    ints[KEYPOINTS_LABELLED] = labelled.sum()
    ints[KEYPOINTS_WRONG] = len(triples) - labelled.sum() - absent.sum()
    ints[KEYPOINTS_GHOST] = (absent & (triples[:, :2] != 0).any(1)).sum()
    if labelled.any():
        points = triples[labelled, :2]
        floats[POINTS : POINTS + 4] = [*points.min(0), *points.max(0)]
