"""Loads COCO json files as Detectron2's data set dicts and checks every field.

On valid files the result is identical to ``detectron2.data.datasets.load_coco_json``. On other
files the error names the file and the record. :func:`~.normalize.normalize_annotation` states what
each field of an annotation may be. What is dropped or changed is reported in one warning per file.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detectron2.structures import BoxMode

from mask_rcnn_repro.data.coco.categories import Categories, parse_categories
from mask_rcnn_repro.data.coco.fields import (
    Findings,
    backslash_hint,
    bad_id,
    is_id,
    missing_message,
    positive_int,
    records,
    relative_file_name,
    required,
    short,
)
from mask_rcnn_repro.data.coco.file import coco_file, gc_paused
from mask_rcnn_repro.data.coco.normalize import NO_IMAGE, NO_MASK, normalize_annotation
from mask_rcnn_repro.errors import DataError

_logger = logging.getLogger(__name__)

# How many images are looked for on disk when a file is loaded: enough to notice a wrong folder.
_IMAGES_LOOKED_FOR = 16


@dataclass(frozen=True)
class CocoData:
    """What :func:`load_coco_json` reads.

    Attributes:
        dicts: Detectron2 data set dicts, sorted by image id.
        categories: None if the file has none and ``annotated`` is False.
        annotated: Whether the file has an "annotations" field.
    """

    dicts: list[dict[str, Any]]
    categories: Categories | None
    annotated: bool


def load_coco_json(
    json_file: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    expected: Sequence[str] | None = None,
) -> CocoData:
    """Reads and checks a COCO json file.

    Args:
        json_file: Annotations (instances, person keypoints), or image info only (test splits).
        image_root: Directory to which the images' file names are relative.
        expected: Class names that an annotated file must have, in the order of their ids; None
            takes them as they are.

    Returns:
        Dicts with file_name, height, width, image_id and annotations: boxes as XYWH_ABS in
        pixels, contiguous category ids, polygons or compressed RLE, keypoints shifted by half a
        pixel as Detectron2 expects. ``annotations`` is empty for image info files.

    Raises:
        DataError: A file or directory is missing, or the content is wrong.
    """
    file = os.fspath(json_file)
    root = os.fspath(image_root)
    with gc_paused():
        content = coco_file(file).take_content()  # the dicts keep its lists
        annotated = "annotations" in content
        categories = None
        if annotated or "categories" in content:
            categories = parse_categories(content.get("categories"), file)
        if annotated and expected is not None and categories is not None:
            _check_classes(categories.names, expected, file)
        by_id = parse_images(content.get("images"), file, root)
        if annotated and categories is not None:
            findings = Findings()
            _parse_annotations(content["annotations"], by_id, categories, file, findings)
            findings.warn(_logger, file)
        dicts = [by_id[image_id] for image_id in sorted(by_id)]
    _look_for_images(dicts, root, file)
    _logger.info("Loaded %d images in COCO format from %s", len(dicts), file)
    return CocoData(dicts, categories, annotated)


def _check_classes(names: Sequence[str], expected: Sequence[str], file: str) -> None:
    if tuple(names) != tuple(expected):
        raise DataError(
            f"{file} has {len(names)} classes ({short(list(names))}), but the data set under this "
            f"name has {len(expected)} ({short(list(expected))}). To use another data set, give it "
            "a name of its own with dataset.names, dataset.json and dataset.image_root."
        )


def parse_images(value: Any, file: str, root: str) -> dict[int, dict[str, Any]]:
    """Checks the "images" of a COCO json.

    Returns:
        One data set dict per image, without annotations yet, by image id.

    Raises:
        DataError: Fields are missing or of wrong types, ids not unique, or names leave the root.
    """
    entries = records(value, "images", file)
    if not entries:
        raise DataError(f"{file}: 'images' is empty, so there is nothing to train or test on.")
    by_id: dict[int, dict[str, Any]] = {}
    for index, entry in enumerate(entries):
        where = f"{file}: images[{index}]"
        identity = required(entry, "id", where)
        if not is_id(identity):
            raise bad_id(identity, f"{where}: 'id'")
        if identity in by_id:
            raise DataError(f"{where}: image id {identity} is a duplicate; ids must be unique.")
        where = f"{file}: image {identity}"
        name = relative_file_name(required(entry, "file_name", where), f"{where}: 'file_name'")
        by_id[identity] = {
            "file_name": os.path.join(root, name),
            "height": positive_int(required(entry, "height", where), f"{where}: 'height'"),
            "width": positive_int(required(entry, "width", where), f"{where}: 'width'"),
            "image_id": identity,
            "annotations": [],
        }
    return by_id


def _parse_annotations(
    value: Any,
    by_id: Mapping[int, dict[str, Any]],
    categories: Categories,
    file: str,
    findings: Findings,
) -> None:
    """Appends checked annotations to their images' records, in the order of the file."""
    seen: set[int] = set()
    # The widely used minival files of COCO 2014 repeat some annotation ids, which is harmless.
    unique = "minival" not in os.path.basename(file)
    unmasked: list[int] = []
    any_mask = False
    for index, entry in enumerate(records(value, "annotations", file)):
        identity: Any = entry.get("id")
        if not is_id(identity):
            where = f"{file}: annotations[{index}]"
            required(entry, "id", where)
            raise bad_id(identity, f"{where}: 'id'")
        where = f"{file}: annotation {identity}"
        if identity in seen and unique:
            raise DataError(f"{where} is a duplicate; annotation ids must be unique.")
        seen.add(identity)
        image_id = required(entry, "image_id", where)
        if not is_id(image_id):
            raise bad_id(image_id, f"{where}: 'image_id'")
        record = by_id.get(image_id)
        if record is None:
            findings.add(NO_IMAGE, identity)
            continue
        annotation = normalize_annotation(entry, record, categories, where, identity, findings)
        if annotation is not None:
            record["annotations"].append(_in_detectron2s_format(annotation, categories))
            if "segmentation" in annotation:
                any_mask = True
            else:
                unmasked.append(identity)
    if any_mask:  # a file without any mask is a box data set, which needs no warning
        for identity in unmasked:
            findings.add(NO_MASK, identity)


def _in_detectron2s_format(annotation: dict[str, Any], categories: Categories) -> dict[str, Any]:
    annotation.pop("area", None)
    annotation["bbox_mode"] = BoxMode.XYWH_ABS
    annotation["category_id"] = categories.id_map[annotation["category_id"]]
    if "keypoints" in annotation:
        # Keypoints are pixel indices while boxes and masks are continuous coordinates: + 0.5.
        values = annotation["keypoints"]
        moved = [v + 0.5 for v in values]
        moved[2::3] = values[2::3]
        annotation["keypoints"] = moved
    return annotation


def _look_for_images(dicts: Sequence[Mapping[str, Any]], root: str, file: str) -> None:
    """Checks that the first and some more images exist, to detect a wrong directory early."""
    if not os.path.isdir(root):
        raise DataError(missing_message("image folder", root))
    step = max(1, len(dicts) // _IMAGES_LOOKED_FOR)
    sample = dicts[::step][:_IMAGES_LOOKED_FOR]
    missing = [d["file_name"] for d in sample if not os.path.isfile(d["file_name"])]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(sample)} images looked for are missing, the first is "
            f"{missing[0]}. The file {file} lists {len(dicts)} images relative to the image root "
            f"{root}: check the image root, or fetch the missing images."
            f"{backslash_hint(os.path.relpath(missing[0], root))}"
        )
