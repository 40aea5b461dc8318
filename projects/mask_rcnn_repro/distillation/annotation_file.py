"""Predictions to annotations: the COCO json file that training reads."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import pycocotools.mask as mask_util
from detectron2.data import MetadataCatalog

from mask_rcnn_repro.data.coco.file import coco_file
from mask_rcnn_repro.data.registration import coco_parts
from mask_rcnn_repro.distillation.predictions import PredictionStore
from mask_rcnn_repro.errors import DataError
from mask_rcnn_repro.utils.atomic import atomic_write

VISIBLE = 2


def labeled_categories(name: str) -> list[dict[str, Any]]:
    """Returns the "categories" of a registered data set, with its own ids, sorted by id.

    Raises:
        DataError: files of a data set that are missing or broken; no class names.
    """
    parts = coco_parts(name)
    if parts is not None:
        categories = coco_file(parts[0].json_file).content.get("categories") or []
        return sorted(categories, key=lambda category: category["id"])
    classes = MetadataCatalog.get(name).get("thing_classes")
    if not classes:
        raise DataError(f"The classes of the labeled data {name!r} are not known.")
    return [{"id": i + 1, "name": str(c)} for i, c in enumerate(classes)]


def annotation(
    detection: Mapping[str, Any],
    image_id: int | str,
    identity: int,
    categories: Sequence[Mapping[str, Any]],
    min_keypoint_score: float = 0.0,
) -> dict[str, Any]:
    """Turns a detection into an annotation.

    Args:
        detection: see :mod:`mask_rcnn_repro.distillation.predictions`.
        image_id: of its image.
        identity: the annotation's id.
        categories: of the labeled set, in the order of the model's classes.
        min_keypoint_score: keypoints below it are not labelled (x, y and visibility 0), all others
            are visible; at 0 all are, as in Radosavovic et al.

    Returns:
        A COCO annotation. `area` is the mask's, or, without a mask, the box's; `score` is kept.
    """
    x, y, width, height = detection["bbox"]
    made: dict[str, Any] = {
        "id": identity,
        "image_id": image_id,
        "category_id": categories[detection["category_id"]]["id"],
        "bbox": [x, y, width, height],
        "area": round(width * height, 2),
        "iscrowd": 0,
        "score": detection["score"],
    }
    if "segmentation" in detection:
        made["segmentation"] = detection["segmentation"]
        made["area"] = float(mask_util.area(detection["segmentation"]))
    if "keypoints" in detection:
        values = detection["keypoints"]
        made["keypoints"] = []
        for kx, ky, score in zip(values[::3], values[1::3], values[2::3], strict=True):
            labelled = score >= min_keypoint_score
            made["keypoints"] += [kx, ky, VISIBLE] if labelled else [0, 0, 0]
        made["num_keypoints"] = sum(v > 0 for v in made["keypoints"][2::3])
    return made


def write_generated(
    file: Path,
    store: PredictionStore,
    records: Sequence[Mapping[str, Any]],
    image_root: str,
    categories: Sequence[Mapping[str, Any]],
    info: Mapping[str, Any],
    *,
    score: float,
    min_keypoint_score: float = 0.0,
) -> None:
    """Writes the annotations in one step, an image in memory at a time.

    The file does not depend on when and by how many processes the predictions were made.

    Args:
        file: target; "info" comes first in it, so that it can be read without the rest.
        store: complete predictions.
        records: the images' data set dicts, in the store's order; all are listed, also those
            without instances.
        image_root: folder to which file names shall be relative.
        categories: see :func:`annotation`.
        info: content of "info".
        score: detections below it are dropped.
        min_keypoint_score: see :func:`annotation`.
    """
    images = [
        {
            "id": record["image_id"],
            "file_name": os.path.relpath(record["file_name"], image_root),
            "width": record["width"],
            "height": record["height"],
        }
        for record in records
    ]

    def annotations() -> Iterator[dict[str, Any]]:
        identity = 0
        for image_id, detections in store.read():
            for detection in detections:
                if detection["score"] >= score:
                    identity += 1
                    yield annotation(detection, image_id, identity, categories, min_keypoint_score)

    with atomic_write(file, text=True) as stream:
        stream.write(f'{{"info": {json.dumps(info)},\n"categories": {json.dumps(categories)}')
        for key, rows in (("images", iter(images)), ("annotations", annotations())):
            stream.write(f',\n"{key}": [')
            _write_rows(stream, rows)
            stream.write("]")
        stream.write("}\n")


def _write_rows(stream: IO[str], rows: Iterator[dict[str, Any]]) -> None:
    separator = "\n"
    for row in rows:
        stream.write(separator + json.dumps(row, separators=(",", ":")))
        separator = ",\n"
