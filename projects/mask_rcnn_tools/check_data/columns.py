"""Annotations as arrays of the values that checks need.

Unusual annotations raise no error. A number that cannot be read is NaN, and ``odd`` holds the
annotations that must be checked one by one, because the loader may refuse them.

Shapes: N annotations.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import chain
from typing import Any

import numpy as np

from mask_rcnn_repro.data.coco.fields import is_id
from mask_rcnn_repro.data.coco.run_lengths import decode_counts

NO_MASK, IS_POLYGON, IS_RUNS = 0, 1, 2
"""Kinds of masks."""

_NEEDED = {"id", "image_id", "category_id", "bbox"}
_BLOCK = 1 << 15  # annotations that are read together, which bounds the memory


@dataclass
class Columns:
    """Annotations of one file. Whole numbers are int64, others float64 and NaN where unknown.

    Attributes:
        id: (N,).
        image: (N,) image id.
        category: (N,) category id.
        crowd: (N,) -1 if the field is missing.
        area: (N,) as stated.
        area_given: (N,) bool, whether the field exists and is not null.
        boxes: (N, 4) XYWH in pixels.
        mask: (N,) one of the kinds above.
        polygons: (N,) number of polygons.
        bad_polygons: (N,) number of those that are not at least 3 whole points.
        run_size: (N, 2) height and width of run lengths.
        run_total: (N,) pixels of run lengths; -1 if a run is negative.
        mask_bounds: (N, 4) XYXY of the pixels or valid polygons.
        mask_area: (N,) pixels, or sum of the valid polygons' areas.
        keypoints: (N,) length of the list. 0 without keypoints, -1 if it is not a list of numbers.
        labelled: (N,) keypoints of visibility 1 or 2.
        ghosts: (N,) keypoints of visibility 0 that are not at (0, 0).
        unknown_visibility: (N,) keypoints of another visibility.
        num_keypoints: (N,) as stated, -1 if the field is missing.
        point_bounds: (N, 4) XYXY of the labeled keypoints.
        odd: By row, the content of annotations that must be checked one by one.
    """

    id: np.ndarray
    image: np.ndarray
    category: np.ndarray
    crowd: np.ndarray
    area: np.ndarray
    area_given: np.ndarray
    boxes: np.ndarray
    mask: np.ndarray
    polygons: np.ndarray
    bad_polygons: np.ndarray
    run_size: np.ndarray
    run_total: np.ndarray
    mask_bounds: np.ndarray
    mask_area: np.ndarray
    keypoints: np.ndarray
    labelled: np.ndarray
    ghosts: np.ndarray
    unknown_visibility: np.ndarray
    num_keypoints: np.ndarray
    point_bounds: np.ndarray
    odd: dict[int, Any]

    def __len__(self) -> int:
        return len(self.id)


def columns_of(entries: Sequence[Any]) -> Columns:
    """Reads parsed annotations.

    Args:
        entries: Items of "annotations" in a json, of any type. May be empty.
    """
    blocks = [_block(entries[i : i + _BLOCK]) for i in range(0, max(len(entries), 1), _BLOCK)]
    names = [field.name for field in fields(Columns) if field.name != "odd"]
    joined = {name: np.concatenate([block[name] for block in blocks]) for name in names}
    odd = np.flatnonzero(np.concatenate([block["odd"] for block in blocks]))
    return Columns(**joined, odd={row: entries[row] for row in odd.tolist()})


def _block(entries: Sequence[Any]) -> dict[str, np.ndarray]:
    """Returns the columns by name, and `odd` as (N,) bool."""
    plain: list[dict[str, Any]] = [e if type(e) is dict else {} for e in entries]
    odd = _bools(not e.keys() >= _NEEDED for e in plain)
    odd |= _bools(e.get("iscrowd", 0) not in (0, 1) or e.get("ignore", 0) != 0 for e in plain)
    columns = {
        column: _whole([e.get(name, missing) for e in plain], missing, odd)
        for column, name, missing in (
            ("id", "id", 0),
            ("image", "image_id", 0),
            ("category", "category_id", 0),
            ("crowd", "iscrowd", -1),
            ("num_keypoints", "num_keypoints", -1),
        )
    }
    area = _floats([e.get("area", 0) for e in plain])
    given = _bools(e.get("area") is not None for e in plain)
    area[~given] = np.nan
    boxes = _boxes([e.get("bbox") for e in plain], odd)
    columns |= {"area": area, "area_given": given, "boxes": boxes, "odd": odd}
    columns |= _masks([e.get("segmentation") for e in plain], odd)
    columns |= _keypoints([e.get("keypoints") for e in plain], odd)
    return columns


def _bools(values: Iterable[bool]) -> np.ndarray:
    return np.array(list(values), bool)


def _whole(values: list[Any], missing: int, odd: np.ndarray) -> np.ndarray:
    if {*map(type, values)} == {int} and is_id(min(values)) and is_id(max(values)):
        return np.array(values, np.int64)
    good = _bools(is_id(value) for value in values)
    odd |= ~good
    return np.array([v if ok else missing for v, ok in zip(values, good, strict=True)], np.int64)


def _number(value: Any) -> float:
    """Returns a number as float. NaN for anything else, and for numbers out of range."""
    if type(value) is float or (type(value) is int and abs(value) <= sys.float_info.max):
        return float(value)
    return np.nan


def _floats(values: list[Any]) -> np.ndarray:
    """Applies :func:`_number` and returns (n,) float64."""
    if {*map(type, values)} <= {int, float}:
        with contextlib.suppress(OverflowError):
            return np.array(values, np.float64)
    return np.array([_number(value) for value in values], np.float64)


def _are_numbers(value: Any) -> bool:
    return type(value) is list and all(type(v) in (int, float) for v in value)


def _flatten(lists: list[Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Joins lists of numbers.

    Returns:
        The numbers of all lists (float64), the lengths of the lists, and which of them are not
        lists of finite numbers (these count as empty).
    """
    if {*map(type, lists)} <= {list}:
        values = _floats([*chain.from_iterable(lists)])
        if np.isfinite(values).all():
            lengths = np.array([*map(len, lists)], np.int64)
            return values, lengths, np.zeros(len(lists), bool)
    bad = _bools(not (_are_numbers(v) and np.isfinite(_floats(v)).all()) for v in lists)
    values, lengths, _ = _flatten([[] if no else v for v, no in zip(lists, bad, strict=True)])
    return values, lengths, bad


def _boxes(values: list[Any], odd: np.ndarray) -> np.ndarray:
    numbers, lengths, _ = _flatten(values)
    if (lengths == 4).all():
        return numbers.reshape(-1, 4)
    boxes = np.full((len(values), 4), np.nan)
    for row, value in enumerate(values):
        if _are_numbers(value) and len(value) == 4:
            boxes[row] = _floats(value)
    odd |= ~np.isfinite(boxes).all(1)
    return boxes


def _masks(values: list[Any], odd: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the columns of masks. As in the loader, a mask needs a valid polygon."""
    count = len(values)
    kind = np.array(
        [NO_MASK if not v else IS_RUNS if type(v) is dict else IS_POLYGON for v in values], np.int64
    )
    odd |= (kind == IS_POLYGON) & _bools(type(v) is not list for v in values)
    polygons = [v if v and type(v) is list else [] for v in values]
    owner = np.repeat(np.arange(count), [len(v) for v in polygons])
    numbers, lengths, bad = _flatten([*chain.from_iterable(polygons)])
    odd[owner[bad]] = True
    valid = ~bad & (lengths >= 6) & (lengths % 2 == 0)
    points = numbers[np.repeat(valid, lengths)].reshape(-1, 2)
    ends = np.cumsum(lengths[valid] // 2)
    starts = ends - lengths[valid] // 2
    good = owner[valid]
    area = np.full(count, np.nan)
    area[good] = 0
    if len(starts):
        following = np.arange(1, len(points) + 1)
        following[ends - 1] = starts
        (x, y), (u, v) = points.T, points[following].T
        with np.errstate(over="ignore", invalid="ignore"):
            np.add.at(area, good, abs(np.add.reduceat(x * v - u * y, starts)) / 2)
    kind[(kind == IS_POLYGON) & np.isnan(area)] = NO_MASK  # no polygon is valid
    columns = {
        "mask": kind,
        "polygons": np.bincount(owner, minlength=count),
        "bad_polygons": np.bincount(owner[~valid], minlength=count),
        "run_size": np.zeros((count, 2), np.int64),
        "run_total": np.zeros(count, np.int64),
        "mask_bounds": _bounds(np.repeat(good, lengths[valid] // 2), points, count),
        "mask_area": area,
    }
    for row in np.flatnonzero(kind == IS_RUNS).tolist():
        odd[row] |= not _fill_runs(values[row], {k: v[row : row + 1] for k, v in columns.items()})
    return columns


def _bounds(owner: np.ndarray, points: np.ndarray, count: int) -> np.ndarray:
    """Returns XYXY bounds (count, 4) of points. `owner` is the row of each point, ascending."""
    bounds = np.full((count, 4), np.nan)
    first = np.flatnonzero(np.diff(owner, prepend=-1))
    if len(first):
        bounds[owner[first], :2] = np.minimum.reduceat(points, first)
        bounds[owner[first], 2:] = np.maximum.reduceat(points, first)
    return bounds


def _fill_runs(value: dict[str, Any], row: dict[str, np.ndarray]) -> bool:
    """Writes the columns of run lengths of one row. Returns False if they cannot be read."""
    size, counts = value.get("size"), value.get("counts")
    if type(size) is not list or len(size) != 2:
        return False
    if not all(type(n) is int and 0 < n < 2**31 for n in size):
        return False
    row["run_size"][0] = size
    runs = None
    if type(counts) is str:
        runs = decode_counts(counts)
    elif type(counts) is list and all(type(n) is int and abs(n) < 2**62 for n in counts):
        runs = np.array(counts, np.int64)
    if runs is None:
        return False
    total = sum(runs.tolist())
    row["run_total"][0] = -1 if (runs < 0).any() or total >= 2**62 else total
    row["mask_area"][0] = float(runs[1::2].sum())
    ends = np.cumsum(runs)
    inside = runs[1::2] > 0
    starts, ends = ends[0:-1:2][inside], ends[1::2][inside] - 1
    if row["run_total"][0] < 0 or not len(starts):
        return True
    height = size[0]
    tall = (starts // height != ends // height).any()  # a run goes on from the top of a column
    row["mask_bounds"][0] = (
        (starts // height).min(),
        0 if tall else (starts % height).min(),
        (ends // height).max() + 1,
        height if tall else (ends % height).max() + 1,
    )
    return True


def _keypoints(values: list[Any], odd: np.ndarray) -> dict[str, np.ndarray]:
    count = len(values)
    rows = np.array([row for row, value in enumerate(values) if value], np.int64)
    lists = [values[row] for row in rows.tolist()]
    given, lengths, bad = _flatten(lists)
    odd[rows[bad]] = True
    numbers = np.zeros(count, np.int64)
    numbers[rows] = [len(v) if _are_numbers(v) else -1 for v in lists]
    whole = lengths // 3
    place = np.arange(len(given)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    points = given[place < np.repeat(3 * whole, lengths)].reshape(-1, 3)
    owner = np.repeat(rows, whole)
    labelled = np.isin(points[:, 2], (1, 2))
    absent = points[:, 2] == 0
    ghost = absent & (points[:, :2] != 0).any(1)

    def counts(chosen: np.ndarray) -> np.ndarray:
        return np.bincount(owner[chosen], minlength=count)

    return {
        "keypoints": numbers,
        "labelled": counts(labelled),
        "ghosts": counts(ghost),
        "unknown_visibility": counts(~labelled & ~absent),
        "point_bounds": _bounds(owner[labelled], points[labelled, :2], count),
    }
