"""Write predictions as annotations, in the COCO json file that training reads."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

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
        DataError: Files of the data set are missing or broken, or it has no class names.
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
    """Converts a detection to a COCO annotation, with its `score` and the area of its mask or box.

    Args:
        detection: See :mod:`mask_rcnn_repro.distillation.predictions`.
        image_id: Id of its image.
        identity: Id of the annotation.
        categories: Categories of the labeled set, in the order of the model's classes.
        min_keypoint_score: Keypoints below it are unlabeled (x, y and visibility 0), all others
            are visible. At 0 all are visible, as in Radosavovic et al.
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
            labeled = score >= min_keypoint_score
            made["keypoints"] += [kx, ky, VISIBLE] if labeled else [0, 0, 0]
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
    """Writes the annotations atomically, with one image in memory at a time.

    Args:
        file: Target. It begins with "info", which can be read without the rest.
        store: Complete predictions.
        records: Data set dicts of the images, in the order of the store. All images are listed.
        image_root: Directory to which file names are relative.
        categories: See :func:`annotation`.
        info: Content of "info".
        score: Detections below it are dropped.
        min_keypoint_score: See :func:`annotation`.
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
            separator = "\n"
            for row in rows:
                stream.write(separator + json.dumps(row, separators=(",", ":")))
                separator = ",\n"
            stream.write("]")
        stream.write("}\n")
