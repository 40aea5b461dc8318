"""A small COCO-format data set on disk, for the data tests."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 40, 30

TRIANGLE = [4.5, 4.5, 14.5, 4.5, 4.5, 14.5]


def annotation(identity: int, image: int, **fields: Any) -> dict[str, Any]:
    record: dict[str, Any] = {
        "id": identity,
        "image_id": image,
        "category_id": 7,
        "bbox": [4.5, 4.5, 10.0, 10.0],
        "segmentation": [list(TRIANGLE)],
        "area": 50.0,
        "iscrowd": 0,
    }
    record.update(fields)
    return {key: value for key, value in record.items() if value is not ...}


def content(num_images: int = 3) -> dict[str, Any]:
    """Images 10, 20, ... with one triangle each; categories 7 and 3, so 7 is class 1."""
    ids = [10 * (i + 1) for i in range(num_images)]
    return {
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "height": HEIGHT, "width": WIDTH} for i in ids
        ],
        "annotations": [annotation(100 + i, i) for i in ids],
        "categories": [{"id": 7, "name": "cog"}, {"id": 3, "name": "mug"}],
    }


def write(folder: Path, data: Any, images: bool = True) -> tuple[str, str]:
    """Writes a json and the images that it lists; returns the json's path and the image root."""
    root = folder / "images"
    root.mkdir(parents=True, exist_ok=True)
    if images:
        for index, record in enumerate(data["images"]):
            rng = np.random.RandomState(index)
            pixels = rng.randint(0, 255, (record["height"], record["width"], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / record["file_name"], quality=95)
    path = folder / "data.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return str(path), str(root)


def changed(data: dict[str, Any], place: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """Returns a copy with the value at a place replaced, or removed where it is `...`."""
    result = copy.deepcopy(data)
    target: Any = result
    for key in place[:-1]:
        target = target[key]
    if value is ...:
        del target[place[-1]]
    else:
        target[place[-1]] = value
    return result
