"""A tiny data set in Cityscapes' layout, written by the official scripts' own functions."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from cityscapesscripts.helpers.annotation import Annotation
from cityscapesscripts.preparation.json2instanceImg import createInstanceImage
from cityscapesscripts.preparation.json2labelImg import createLabelImage
from PIL import Image

HEIGHT, WIDTH = 48, 64


def rectangle(label: str, x1: int, y1: int, x2: int, y2: int) -> dict[str, Any]:
    """A rectangle whose last pixels are x2 and y2: PIL draws the outline, too."""
    return {"label": label, "polygon": [[x1, y1], [x2, y1], [x2, y2], [x1, y2]]}


# Two cars, the second hidden behind a person in part and a sign's pole; a group, a caravan.
STREET = [
    {"label": "road", "polygon": [[0, 0], [63, 0], [63, 47], [0, 47]]},
    rectangle("car", 2, 10, 11, 19),
    rectangle("car", 20, 10, 39, 19),
    rectangle("pole", 30, 0, 31, 40),
    rectangle("person", 24, 8, 27, 30),
    rectangle("persongroup", 44, 10, 53, 15),
    rectangle("caravan", 44, 30, 60, 40),
    {"label": "bicycle", "polygon": [[5, 25], [15, 25], [15, 35]]},
]


def paths(root: Path, split: str, stem: str) -> dict[str, Path]:
    city = stem.split("_")[0]
    truth = root / "gtFine" / split / city
    return {
        "image": root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png",
        "instance_ids": truth / f"{stem}_gtFine_instanceIds.png",
        "polygons": truth / f"{stem}_gtFine_polygons.json",
        "labels": truth / f"{stem}_gtFine_labelIds.png",
    }


def write_image(
    root: Path,
    split: str,
    stem: str,
    objects: list[dict[str, Any]] = STREET,
    size: tuple[int, int] = (HEIGHT, WIDTH),
) -> dict[str, Path]:
    """Writes an image, its polygons and the PNGs drawn from them."""
    files = paths(root, split, stem)
    for path in files.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.RandomState(len(stem)).randint(0, 255, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(files["image"])
    content = json.dumps({"imgHeight": size[0], "imgWidth": size[1], "objects": objects})
    files["polygons"].write_text(content)
    annotation = Annotation()
    annotation.fromJsonText(content)
    with contextlib.redirect_stdout(io.StringIO()):
        createInstanceImage(annotation, "ids").save(files["instance_ids"])
        createLabelImage(annotation, "ids").save(files["labels"])
    return files


def write_ids(path: Path, ids: np.ndarray) -> None:
    """Writes instance ids as a 16-bit PNG."""
    Image.fromarray(ids.astype(np.uint16)).save(path)


def write_split(root: Path, split: str = "train", count: int = 3) -> list[str]:
    """Writes images of two cities; returns their ids in order."""
    stems = [f"{('aachen', 'bonn')[i % 2]}_000000_{i:06d}" for i in range(count)]
    for index, stem in enumerate(stems):
        moved = [rectangle("truck", 40, 25 + index % 20, 43, 46)]
        write_image(root, split, stem, STREET + moved)
    return sorted(stems)


def truncate(path: Path, missing: int = 20) -> None:
    """Cuts bytes off the end of a file."""
    path.write_bytes(path.read_bytes()[:-missing])


def flip(path: Path) -> None:
    """Inverts the byte in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
