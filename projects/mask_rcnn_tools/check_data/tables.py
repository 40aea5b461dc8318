"""Annotations and images of one data set as arrays, and the problems of single records.

Shapes: N annotations, I images.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mask_rcnn_repro.data.coco.categories import Categories, parse_categories
from mask_rcnn_repro.data.coco.fields import (
    Findings,
    bad_id,
    is_id,
    positive_int,
    records,
    relative_file_name,
    required,
    short,
)
from mask_rcnn_repro.data.coco.file import coco_file
from mask_rcnn_repro.data.coco.normalize import normalize_annotation
from mask_rcnn_repro.errors import DataError
from mask_rcnn_tools.check_data.columns import IS_RUNS, Columns, columns_of


@dataclass
class AnnotationTable:
    """Annotations and images of a data set.

    Attributes:
        source: Name of the data set, or its json, for messages.
        root: Image directory. File names are relative to it.
        names: (I,) file names.
        ids: (I,) int64 image ids.
        sizes: (I, 2) height and width as stated, 0 if they cannot be used.
        columns: Columns of the annotations.
        image_of: (N,) row of the annotation's image, -1 if it is not listed.
        categories: None if they are missing or broken.
        annotated: Whether the file has annotations at all.
        problems: Kind of finding and case in words, in the order of the file.
        refused: (N,) annotations that are among the problems.
    """

    source: str
    root: str
    names: list[str]
    ids: np.ndarray
    sizes: np.ndarray
    columns: Columns
    image_of: np.ndarray
    categories: Categories | None
    annotated: bool
    problems: list[tuple[str, str]]
    refused: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    def path(self, image: int) -> str:
        """Returns the path of an image."""
        return os.path.join(self.root, self.names[image])

    def annotation(self, row: int) -> str:
        """Describes an annotation."""
        image = int(self.image_of[row])
        where = f" on {self.names[image]}" if image >= 0 else ""
        return f"annotation {self.columns.id[row]}{where}"

    def describe(self, rows: np.ndarray, text: str = "") -> Iterator[str]:
        """Describes annotations, each as its name, `text` and its box."""
        for row in rows.tolist():
            box = ", ".join(f"{x:.6g}" for x in self.columns.boxes[row])
            height, width = self.sizes[self.image_of[row]] if self.image_of[row] >= 0 else (0, 0)
            size = f", image {width} x {height}" if height else ""
            yield f"{self.annotation(row)}: {text}box [{box}]{size}"


def read_table(json_file: str, root: str, source: str | None = None) -> AnnotationTable:
    """Reads an annotation file.

    Args:
        json_file: File in COCO format.
        root: Image directory.
        source: Name in messages. None: the file.

    Raises:
        DataError: The file is missing, is no json, or has no list of images.
    """
    content = coco_file(json_file).content
    problems: list[tuple[str, str]] = []
    annotated = "annotations" in content
    categories = _categories(content, annotated, json_file, problems)
    entries = content.get("annotations", [])
    if type(entries) is not list:
        kind = type(entries).__name__
        problems.append(("refused-record", f"'annotations' must be a list, got {kind}"))
        entries = []
    names, ids, sizes = _images(content.get("images"), json_file, problems)
    columns = columns_of(entries)
    table = AnnotationTable(
        source or json_file,
        root,
        names,
        ids,
        sizes,
        columns,
        rows_of(columns.image, ids),
        categories,
        annotated,
        problems,
        np.zeros(len(columns), bool),
    )
    # As the loader: the widely used minival files of COCO 2014 repeat some annotation ids.
    _check_records(table, unique="minival" not in os.path.basename(json_file))
    return table


def rows_of(wanted: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Returns for each wanted id its first row in `ids`, -1 if it is not there."""
    if not len(ids):
        return np.full(len(wanted), -1)
    order = np.argsort(ids, kind="stable")
    place = np.searchsorted(ids[order], wanted).clip(max=len(ids) - 1)
    found = order[place]
    return np.where(ids[found] == wanted, found, -1)


def _categories(
    content: dict[str, Any], annotated: bool, file: str, problems: list[tuple[str, str]]
) -> Categories | None:
    if not annotated and "categories" not in content:
        return None
    try:
        return parse_categories(content.get("categories"), file)
    except DataError as error:
        problems.append(("refused-record", str(error)))
        return None


def _images(
    value: Any, file: str, problems: list[tuple[str, str]]
) -> tuple[list[str], np.ndarray, np.ndarray]:
    if type(value) is not list or not value:
        records(value, "images", file)
        raise DataError(f"{file}: 'images' is empty, so there is nothing to train or test on.")
    names: list[str] = []
    ids: list[int] = []
    sizes: list[tuple[int, int]] = []
    seen: set[int] = set()
    for index, entry in enumerate(value):
        where = f"images[{index}]"
        try:
            if type(entry) is not dict:
                raise DataError(f"{where} must be an object, got {short(entry)}.")
            identity = required(entry, "id", where)
            if not is_id(identity):
                raise bad_id(identity, f"{where}: 'id'")
            where = f"image {identity}"
            if identity in seen:
                problems.append(("duplicate-image-id", f"image id {identity}, again at {index}"))
            name = required(entry, "file_name", where)
            size = tuple(
                positive_int(required(entry, key, where), f"{where}: {key!r}")
                for key in ("height", "width")
            )
        except DataError as error:
            problems.append(("refused-record", str(error)))
            continue
        try:
            name = relative_file_name(name, f"{where}: 'file_name'")
        except DataError as error:
            leaves = type(name) is str and "leaves" in str(error)
            kind = "path-leaves-root" if leaves else "refused-record"
            problems.append((kind, f"image {identity}: {short(name)}" if leaves else str(error)))
            continue
        seen.add(identity)
        names.append(name)
        ids.append(identity)
        sizes.append(size)  # type: ignore[arg-type]
    return (
        names,
        np.array(ids, np.int64),
        np.array(sizes, np.int64).reshape(-1, 2),
    )


def _check_records(table: AnnotationTable, unique: bool) -> None:
    """Adds the problems for which the loader refuses single annotations."""
    columns, add = table.columns, table.problems.append
    stub = Categories((), {}) if table.categories is None else table.categories
    listed = np.array(list(stub.id_map), np.int64)
    for row, entry in columns.odd.items():
        image = int(table.image_of[row])
        height, width = table.sizes[image].tolist() if image >= 0 else (0, 0)
        message = _refusal(entry, row, height, width, stub)
        if message is not None:
            add(message)
            table.refused[row] = True
    good = np.ones(len(columns), bool)
    good[list(columns.odd)] = False
    if unique:
        values, counts = np.unique(columns.id, return_counts=True)
        for value, count in zip(values[counts > 1], counts[counts > 1], strict=True):
            add(("duplicate-annotation-id", f"annotation id {value}, {count} times"))
    if table.categories is not None:
        unknown = good & ~np.isin(columns.category, listed)
        table.refused |= unknown
        for row in np.flatnonzero(unknown).tolist():
            add(
                (
                    "unknown-category",
                    f"{table.annotation(row)}: category {columns.category[row]}, known are "
                    f"{short(listed.tolist(), 60)}",
                )
            )
    count = len(stub.keypoint_names)
    numbers, wrong_visibility = columns.keypoints, columns.unknown_visibility > 0
    uneven = (numbers % 3 != 0) | ((numbers != 3 * count) & (count > 0))
    uneven &= good & (numbers > 0)
    for kind, chosen in (
        ("keypoint-numbers", uneven),
        ("keypoint-visibility", good & ~uneven & wrong_visibility),
    ):
        table.refused |= chosen
        for row in np.flatnonzero(chosen).tolist():
            add((kind, f"{table.annotation(row)}: {numbers[row]} numbers, {count} names"))
    runs = good & (columns.mask == IS_RUNS) & (table.image_of >= 0)
    rows = np.flatnonzero(runs)
    sizes = table.sizes[table.image_of[rows]]
    wrong = (columns.run_size[rows] != sizes).any(1) | (columns.run_total[rows] != sizes.prod(1))
    table.refused[rows[wrong]] = True
    for row in rows[wrong].tolist():
        height, width = columns.run_size[row]
        high, wide = table.sizes[table.image_of[row]]
        add(
            (
                "run-lengths",
                f"{table.annotation(row)}: size {height} x {width}, runs of "
                f"{columns.run_total[row]} pixels, image {high} x {wide} (height x width)",
            )
        )


def _refusal(
    entry: Any, row: int, height: int, width: int, categories: Categories
) -> tuple[str, str] | None:
    """Returns why the loader refuses an annotation. None if it takes or ignores it."""
    where = f"annotations[{row}]"
    if type(entry) is not dict:
        return "refused-record", f"{where} must be an object, got {short(entry)}."
    try:
        for key in ("id", "image_id"):
            value = required(entry, key, where)
            if not is_id(value):
                raise bad_id(value, f"{where}: {key!r}")
        if not height:
            return None
        normalize_annotation(
            entry, {"height": height, "width": width}, categories, where, entry["id"], Findings()
        )
    except DataError as error:
        text = str(error)
        for kind, sign in (
            ("unknown-category", "is not among the file's categories"),
            ("run-lengths", "run length encoding's size"),
            ("run-lengths", "the runs of the encoding"),
            ("run-lengths", "is not a compressed run length encoding"),
            ("keypoint-visibility", "with visibility 0, 1 or 2"),
            ("keypoint-numbers", "x, y, visibility for each keypoint"),
        ):
            if sign in text:
                return kind, text
        return "refused-record", text
    return None


def table_of_dicts(
    dicts: Sequence[dict[str, Any]], classes: Sequence[str], source: str
) -> AnnotationTable:
    """Makes a table of Detectron2's data set dicts, for data sets in other formats.

    Args:
        dicts: Dicts whose file names are whole paths.
        classes: Names of the classes. Categories are numbered from 0.
        source: Name in messages.
    """
    from detectron2.structures import BoxMode

    names: list[str] = []
    sizes: list[tuple[int, int]] = []
    entries: list[dict[str, Any]] = []
    for index, record in enumerate(dicts):
        names.append(os.path.abspath(record["file_name"]))
        sizes.append((record.get("height", 0), record.get("width", 0)))
        for annotation in record.get("annotations", ()):
            box = BoxMode.convert(
                list(annotation["bbox"]), annotation["bbox_mode"], BoxMode.XYWH_ABS
            )
            segmentation = annotation.get("segmentation")
            if isinstance(segmentation, dict) and isinstance(segmentation.get("counts"), bytes):
                segmentation = {**segmentation, "counts": segmentation["counts"].decode("latin1")}
            entries.append(
                {
                    "id": len(entries) + 1,
                    "image_id": index,
                    "category_id": annotation["category_id"],
                    "iscrowd": int(annotation.get("iscrowd", 0)),
                    "bbox": [float(x) for x in box],
                    "segmentation": segmentation,
                    "keypoints": annotation.get("keypoints"),
                }
            )
    columns = columns_of(entries)
    return AnnotationTable(
        source,
        "",
        names,
        np.arange(len(names)),
        np.array(sizes, np.int64).reshape(-1, 2),
        columns,
        columns.image.copy(),
        Categories(tuple(classes), {k: k for k in range(len(classes))}),
        bool(entries),
        [],
        np.zeros(len(columns), bool),
    )
