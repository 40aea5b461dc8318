"""Normalize the annotations of COCO jsons, once for all that read them.

Training, evaluation, data check and analysis get annotations from here. What one of them takes, no
other refuses or reads in another way.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import pycocotools.mask as mask_util

from mask_rcnn_repro.data.coco.categories import Categories, parse_categories
from mask_rcnn_repro.data.coco.fields import (
    Findings,
    bad_id,
    finite_numbers,
    positive_int,
    records,
    required,
    run_lengths,
    short,
)
from mask_rcnn_repro.errors import DataError

_logger = logging.getLogger(__name__)

NO_AREA = "annotations dropped: the box is empty, negative or not finite"
OUTSIDE = "annotations dropped: the box lies outside its image"
TOO_FAR = "annotations dropped: the box reaches further than 10 times the image's size"
NO_IMAGE = "annotations dropped: their image is not listed"
BAD_POLYGON = (
    "polygons skipped: fewer than 3 points, an odd number of coordinates, NaN, infinity, or further"
    " than 10 times the image's size"
)
NO_MASK = "annotations kept without a mask: ignored where masks are trained"
BAD_AREA = "values of 'area' that are not above 0 or exceed the box: taken from the mask or box"

FAR = 10
"""Coordinates beyond so many times the image's longer side are no pixels of it. Rasterizing them
would take memory in proportion, and clipped to the image they would be another object."""


def normalize_annotation(
    entry: Mapping[str, Any],
    image: Mapping[str, Any],
    categories: Categories,
    where: str,
    identity: Any,
    findings: Findings,
) -> dict[str, Any] | None:
    """Checks one annotation and returns the fields that training and evaluation read.

    This is the reference of what a field may be. A field of a wrong type is an error. For all
    fields but `bbox` and `category_id`, null means the same as a missing field.

    - `bbox`: [x, y, width, height] in pixels. The annotation is dropped if the box is empty, not
      finite, outside the image, or further away than :data:`FAR` times the image's longer side.
    - `category_id`: an id of the file's categories.
    - `iscrowd`: 0 or 1.
    - `ignore`: 0; other values are an error.
    - `segmentation`: polygons [[x1, y1, ...], ...], or run lengths of the image's size. Polygons
      with fewer than 3 points, half a point, or coordinates that are not finite or too far away
      are skipped. If no polygon is left, or the run lengths have no pixel, there is no mask. The
      box counts as before.
    - `keypoints`: x, y, visibility (0, 1 or 2) of each keypoint of the category. Empty means that
      nothing is labeled.
    - `num_keypoints`: not read. Keypoints of visibility 1 and 2 are counted.
    - `area`: above 0 and not larger than the box, with a margin of one pixel, for each polygon.
      Otherwise it is omitted, and the evaluation takes the area of the mask or else of the box.

    Args:
        entry: Of the json. It is not changed.
        image: Its image's `height` and `width` in pixels.
        categories: Of the file.
        where: File and annotation, for messages.
        identity: Its id, for `findings`.
        findings: What is dropped or changed is added.

    Returns:
        A new dict with `bbox`, `category_id` and, if they are usable, `iscrowd`, `segmentation`
        (valid polygons, or compressed run lengths), `keypoints` and `area`. None if the annotation
        is dropped.

    Raises:
        DataError: A field is missing or has a wrong type, the category is unknown, run lengths do
            not fit the image, or the number of keypoints is not the category's.
    """
    result: dict[str, Any] = {}
    crowd = entry.get("iscrowd")
    if crowd is not None:
        if crowd not in (0, 1) or type(crowd) not in (int, bool):
            raise DataError(f"{where}: 'iscrowd' must be 0 or 1, got {short(crowd)}.")
        result["iscrowd"] = crowd
    if entry.get("ignore") not in (None, 0):
        raise DataError(f"{where}: 'ignore' is not supported; use 'iscrowd' or drop the record.")
    box = required(entry, "bbox", where)
    finite = finite_numbers(box, f"{where}: 'bbox'")
    if len(box) != 4:
        raise DataError(f"{where}: 'bbox' must be [x, y, width, height], got {short(box)}.")
    result["bbox"] = box
    category = required(entry, "category_id", where)
    if type(category) is float:
        raise bad_id(category, f"{where}: 'category_id'")
    if type(category) is not int or category not in categories.id_map:
        raise DataError(
            f"{where}: category id {short(category)} is not among the file's categories "
            f"{short(list(categories.id_map))}. Add it to 'categories', or fix the annotation."
        )
    result["category_id"] = category
    height, width = image["height"], image["width"]
    far = FAR * max(height, width)
    mask = _mask(entry.get("segmentation"), (height, width), far, where, identity, findings)
    if mask:
        result["segmentation"] = mask
    if entry.get("keypoints"):
        result["keypoints"] = _keypoints(entry["keypoints"], categories, where)
    if not finite or box[2] <= 0 or box[3] <= 0:
        findings.add(NO_AREA, identity)
        return None
    if box[0] >= width or box[1] >= height or box[0] + box[2] <= 0 or box[1] + box[3] <= 0:
        findings.add(OUTSIDE, identity)
        return None
    if box[0] < -far or box[1] < -far or box[0] + box[2] > far or box[1] + box[3] > far:
        findings.add(TOO_FAR, identity)
        return None
    area: Any = entry.get("area")
    pieces = len(mask) if isinstance(mask, list) else 1  # COCO adds up the areas of polygons
    if type(area) in (int, float) and 0 < area <= (box[2] + 1) * (box[3] + 1) * max(pieces, 1):
        result["area"] = area
    elif area is not None:
        findings.add(BAD_AREA, identity)
    return result


def normalize_content(content: dict[str, Any], file: str) -> None:
    """Replaces the annotations of a json by their normalized form, in place.

    Args:
        content: A parsed COCO json with annotations. Ids may be text, unlike for the loader, and
            an annotation may lack its own.
        file: Its name, for messages.

    Raises:
        DataError: See :func:`normalize_annotation`.
    """
    images = {
        required(image, "id", f"{file}: images[{index}]"): {
            side: positive_int(required(image, side, f"{file}: images[{index}]"), side)
            for side in ("height", "width")
        }
        for index, image in enumerate(records(content.get("images"), "images", file))
    }
    categories = parse_categories(content.get("categories"), file)
    entries = records(content.get("annotations"), "annotations", file)
    kept = []
    for entry in entries:
        identity = entry.get("id", 0)  # renumbered later if need be
        where = f"{file}: annotation {identity}"
        image_id = required(entry, "image_id", where)
        if image_id not in images:
            continue
        args = (entry, images[image_id], categories, where, identity, Findings())
        if (annotation := normalize_annotation(*args)) is not None:
            annotation.update(id=identity, image_id=image_id)
            kept.append(annotation)
    if len(kept) < len(entries):
        _logger.info(
            "%s: %d annotations that cannot be used are omitted from the evaluation, too.",
            file,
            len(entries) - len(kept),
        )
    content["annotations"] = kept


def _mask(
    value: Any, size: tuple[int, int], far: float, where: str, identity: Any, findings: Findings
) -> Any:
    """Returns valid polygons or compressed run lengths; empty or None if there is no mask."""
    if not value:
        return None
    if type(value) is dict:
        runs = run_lengths(value, *size, where)
        return runs if mask_util.area(runs) else None
    if type(value) is not list or any(type(polygon) is not list for polygon in value):
        raise DataError(
            f"{where}: 'segmentation' must be a list of polygons [[x1, y1, x2, y2, ...], ...] or a "
            f"run length encoding, got {short(value)}."
        )
    valid = []
    for polygon in value:
        near = finite_numbers(polygon, f"{where}: a polygon of 'segmentation'", far)
        if near and len(polygon) >= 6 and len(polygon) % 2 == 0:
            valid.append(polygon)
        else:
            findings.add(BAD_POLYGON, identity)
    return valid


def _keypoints(value: Any, categories: Categories, where: str) -> list[float]:
    """Returns (x, y, visibility) triples after checking them."""
    finite = finite_numbers(value, f"{where}: 'keypoints'")
    count = 3 * len(categories.keypoint_names)
    if len(value) % 3 or (count and len(value) != count):
        raise DataError(
            f"{where}: 'keypoints' must be x, y, visibility for each keypoint"
            f"{f', {count} numbers' if count else ''}; got {len(value)} numbers."
        )
    if not finite or any(v not in (0, 1, 2) for v in value[2::3]):
        raise DataError(
            f"{where}: 'keypoints' must be finite with visibility 0, 1 or 2, got {short(value)}."
        )
    return value
