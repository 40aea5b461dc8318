"""Reading of result files in COCO's format, of this project or of any other detector.

pycocotools' ``loadRes`` takes nearly any value and computes with it: a mask of another size or a
missing score changes the AP without a message. Here each row is checked. What can be converted
exactly is converted, and all else is an error that names the file, the row and the reason.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pycocotools.mask as mask_util
from pycocotools.coco import COCO

from mask_rcnn_repro.data.coco.fields import finite_numbers, run_lengths, short
from mask_rcnn_repro.data.coco.normalize import FAR
from mask_rcnn_repro.errors import DataError

ID_FIELDS = ("image_id", "category_id", "score")
"""What each row of a result file must hold."""


@dataclass(frozen=True)
class KnownIds:
    """What the rows of a result file may refer to."""

    dataset: str  # name of the data set, for messages
    sizes: Mapping[Any, tuple[int, int]]  # image id to (height, width) in pixels
    categories: Collection[int]  # category ids

    @staticmethod
    def of(gt: COCO, dataset: str, categories: Collection[int] | None = None) -> KnownIds:
        """Takes them from indexed annotations. `categories` defaults to all."""
        sizes = {key: (int(im["height"]), int(im["width"])) for key, im in gt.imgs.items()}
        return KnownIds(dataset, sizes, list(gt.cats) if categories is None else categories)


def read_results(
    files: Sequence[Path], known: KnownIds, images: Container[Any] | None = None
) -> list[dict[str, Any]]:
    """Reads and checks result files.

    Args:
        files: A file with all fields, or one per task that list the same detections in the same
            order, which are joined. A file may also hold them as "annotations" beside "images", as
            `predictions.json` of `tools/predict.py`.
        known: What the rows may refer to.
        images: Ids of the images whose rows are returned. None returns all rows. Of rows of other
            images only the ids are checked.

    Returns:
        Rows with `image_id`, `category_id`, `score` and those of `bbox` (XYWH, pixels),
        `segmentation` and `keypoints` that the files have; the same ones in all rows. Whole
        floating-point ids become integers. Polygons and uncompressed run lengths become compressed
        ones, as by pycocotools' ``annToRLE``. Empty for files without rows.

    Raises:
        DataError: A file cannot be read, a row cannot be used, or the files do not list the same
            detections.
    """
    joined: list[dict[str, Any]] = []
    for number, file in enumerate(files):
        rows = _read_file(Path(file), known, images)
        if number == 0:
            joined = rows
            continue
        if len(rows) != len(joined):
            raise DataError(
                f"{files[0]} lists {len(joined)} detections and {file} {len(rows)}. Give files of "
                "one evaluation, or a single file."
            )
        for index, (row, more) in enumerate(zip(joined, rows, strict=True)):
            if _key(row) != _key(more):
                raise DataError(
                    f"{file} does not list the detections of {files[0]} in the same order: image, "
                    f"class and score of detection {index} are {_key(more)} and {_key(row)}. Give "
                    "files of one evaluation, or a single file."
                )
            row.update(more)
    return joined


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[key] for key in ID_FIELDS)


def _read_file(file: Path, known: KnownIds, images: Container[Any] | None) -> list[dict[str, Any]]:
    try:
        rows = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"The results {str(file)!r} cannot be read: {error}.") from error
    if isinstance(rows, dict) and isinstance(rows.get("annotations"), list):
        if (rows.get("info") or {}).get("image_ids") == "counted from 1":
            raise DataError(
                f"{file} numbers its images from 1, because some are not in the config's test "
                "data. Predict on images of the test data alone (--input)."
            )
        rows = rows["annotations"]
    if not isinstance(rows, list):
        raise DataError(
            f"{str(file)!r} is not a file of COCO results: its top level is a "
            f"{type(rows).__name__}, not a list of detections, each with image_id, category_id, "
            "score and a bbox, segmentation or keypoints."
        )
    kept: list[dict[str, Any]] = []
    first = 0
    categories = frozenset(known.categories)
    for index, row in enumerate(rows):
        where = f"{file}: row {index} (from 0)"
        if not isinstance(row, dict):
            raise DataError(f"{where} must be an object, got {short(row)}.")
        ids = _ids(row, where, known, categories)
        if images is not None and ids["image_id"] not in images:
            continue
        checked = {**ids, **_values(row, where, known.sizes[ids["image_id"]])}
        if kept and checked.keys() != kept[0].keys():
            (field, *_) = sorted(checked.keys() ^ kept[0].keys())
            lacking, having = (index, first) if field in kept[0] else (first, index)
            raise DataError(
                f"{file}: row {lacking} (from 0) has no {field!r}, row {having} has. Add it to all "
                "rows or to none."
            )
        if not kept:
            first = index
        kept.append(checked)
    return kept


def _ids(
    row: Mapping[str, Any], where: str, known: KnownIds, categories: Collection[int]
) -> dict[str, Any]:
    """Returns `image_id` and `category_id`."""
    image, category = (_id(row, key, where) for key in ("image_id", "category_id"))
    if image not in known.sizes:
        raise DataError(
            f"{where}: image_id {image!r} is not in {known.dataset!r}, which has "
            f"{_some(known.sizes)}. Give the results of that data set, or name theirs with "
            "dataloader.test.dataset.names=NAME."
        )
    if category not in categories:
        raise DataError(
            f"{where}: category_id {category!r} is not in {known.dataset!r}, which has "
            f"{_some(sorted(categories))}. Write the ids of the annotation file, not the model's "
            "class indices."
        )
    return {"image_id": image, "category_id": category}


def _id(row: Mapping[str, Any], key: str, where: str) -> Any:
    value = row.get(key)
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) not in (int, str):
        raise DataError(f"{where}: {key!r} must be an id, got {short(value)}.")
    return value


def _some(ids: Collection[Any]) -> str:
    shown = [repr(value) for value, _ in zip(ids, range(8), strict=False)]
    return ", ".join(shown) + (", ..." if len(ids) > len(shown) else "")


def _values(row: Mapping[str, Any], where: str, size: tuple[int, int]) -> dict[str, Any]:
    """Returns `score` and the fields that the row has."""
    score = row.get("score")
    if not _is_number(score):
        raise DataError(f"{where}: 'score' must be a finite number, got {short(score)}.")
    values: dict[str, Any] = {"score": score}
    for field, convert in {"bbox": _box, "segmentation": _mask, "keypoints": _keypoints}.items():
        value = row.get(field)
        # loadRes takes an empty box for none, too
        if value is not None and (value != [] or type(value) is not list):
            values[field] = convert(value, f"{where}: {field!r}", size)
    if len(values) == 1:
        raise DataError(f"{where} has no bbox, segmentation or keypoints. Add one of them.")
    return values


def _is_number(value: Any) -> bool:
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:  # an integer too large for a float
        return False


def _numbers(value: Any, where: str) -> list[float]:
    if not finite_numbers(value, where) or not all(map(_is_number, value)):
        raise DataError(f"{where} must hold finite numbers, got {short(value)}.")
    return value


def _box(value: Any, where: str, size: tuple[int, int]) -> list[float]:
    if len(_numbers(value, where)) != 4:
        raise DataError(f"{where} must be [x, y, width, height], got {short(value)}.")
    return value


def _keypoints(value: Any, where: str, size: tuple[int, int]) -> list[float]:
    if len(_numbers(value, where)) % 3:
        raise DataError(f"{where} must be x, y, score for each keypoint, got {len(value)} numbers.")
    return value


def _mask(value: Any, where: str, size: tuple[int, int]) -> dict[str, Any]:
    """Returns compressed run lengths of the image's size, `counts` as str."""
    height, width = size
    if isinstance(value, dict):
        rle = run_lengths(value, height, width, where)
    else:
        rle = mask_util.merge(mask_util.frPyObjects(_polygons(value, where, size), height, width))
    counts = rle["counts"]
    text = counts.decode() if isinstance(counts, bytes) else counts
    return {"size": [height, width], "counts": text}


def _polygons(value: Any, where: str, size: tuple[int, int]) -> list[list[float]]:
    if type(value) is not list or any(type(polygon) is not list for polygon in value):
        raise DataError(
            f"{where} must be polygons [[x1, y1, x2, y2, ...], ...] or run lengths "
            f'{{"size": [height, width], "counts": ...}}, got {short(value)}.'
        )
    far = FAR * max(size)
    for polygon in value:
        # pycocotools takes four numbers for a box
        if len(_numbers(polygon, where)) < 6 or len(polygon) % 2:
            raise DataError(
                f"{where}: a polygon needs x, y of at least 3 points, got {short(polygon)}."
            )
        if min(polygon) < -far or max(polygon) > far:
            raise DataError(
                f"{where}: a polygon reaches further than {FAR} times the image's size: "
                f"{short(polygon)}. Write pixels of the {size[1]} x {size[0]} image."
            )
    return value
