"""The "categories" of a COCO json file: class names, contiguous ids, keypoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mask_rcnn_repro.data.coco.fields import bad_id, is_id, records, required, short
from mask_rcnn_repro.errors import DataError


@dataclass(frozen=True)
class Categories:
    """The classes of a COCO json file, sorted by their id.

    Attributes:
        names: Class names; the index is the contiguous class id.
        id_map: Category id in the file -> contiguous id.
        keypoint_names: Names of the only category with keypoints, otherwise empty.
        skeleton: Pairs of 0-based keypoint indices of that category.
    """

    names: tuple[str, ...]
    id_map: Mapping[int, int]
    keypoint_names: tuple[str, ...] = ()
    skeleton: tuple[tuple[int, int], ...] = ()


def parse_categories(value: Any, file: str) -> Categories:
    """Checks the "categories" field of a COCO json file.

    Raises:
        DataError: The field is missing or empty, has wrong types or a duplicate id.
    """
    entries = records(value, "categories", file)
    if not entries:
        raise DataError(f"{file}: 'categories' is empty, so there is no class to learn or find.")
    names: dict[int, str] = {}
    keypoints: list[dict[str, Any]] = []
    for index, entry in enumerate(entries):
        where = f"{file}: categories[{index}]"
        identity, name = required(entry, "id", where), required(entry, "name", where)
        if not is_id(identity):
            raise bad_id(identity, f"{where}: 'id'")
        if type(name) is not str:
            raise DataError(f"{where}: 'name' must be a string, got {short(name)}.")
        if identity in names:
            raise DataError(f"{where}: category id {identity} is a duplicate; ids must be unique.")
        names[identity] = name
        if entry.get("keypoints"):
            keypoints.append(entry)
    ordered = sorted(names)
    id_map = {identity: index for index, identity in enumerate(ordered)}
    found = _parse_keypoints(keypoints[0], file) if len(keypoints) == 1 else ((), ())
    return Categories(tuple(names[i] for i in ordered), id_map, *found)


def _parse_keypoints(
    entry: Mapping[str, Any], file: str
) -> tuple[tuple[str, ...], tuple[tuple[int, int], ...]]:
    where = f"{file}: category {entry['id']}"
    names, pairs = entry["keypoints"], entry.get("skeleton") or []
    if type(names) is not list or any(type(name) is not str for name in names):
        raise DataError(f"{where}: 'keypoints' must be a list of names, got {short(names)}.")
    numbers = range(1, len(names) + 1)
    good = type(pairs) is list and all(
        type(p) is list and len(p) == 2 and all(type(i) is int and i in numbers for i in p)
        for p in pairs
    )
    if not good:
        raise DataError(
            f"{where}: 'skeleton' must be a list of pairs of keypoint numbers from 1 to "
            f"{len(names)}, got {short(pairs)}."
        )
    return tuple(names), tuple((a - 1, b - 1) for a, b in pairs)
