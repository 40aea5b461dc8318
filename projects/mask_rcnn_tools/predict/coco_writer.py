"""Predictions as one file in COCO's annotation format, written incrementally.

The file has "images" (`id`, `file_name`, `width`, `height`), "annotations" (COCO results with
`id`, `area` and `iscrowd`), "categories", "info", and for videos "videos". pycocotools' ``COCO``
reads it. "annotations" alone is a list of COCO results.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pycocotools.mask as mask_util

from mask_rcnn_repro.utils.atomic import atomic_write
from mask_rcnn_tools.drawing.marks import Skeleton
from mask_rcnn_tools.drawing.results import ClassNames

FORMAT_VERSION = 1


class CocoWriter:
    """An open file; see :func:`coco_writer`."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._count = 0
        self.images: list[dict[str, Any]] = []
        self.videos: list[dict[str, Any]] = []
        stream.write('{"annotations": [')

    def add(self, image: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> None:
        """Writes the results of an image with `id`, `file_name`, `width` and `height`."""
        self.images.append(dict(image))
        for result in results:
            self._count += 1
            row = {"id": self._count, **result, "area": area_of(result), "iscrowd": 0}
            self._stream.write(("," if self._count > 1 else "") + "\n" + _compact(row))

    def finish(self, categories: Sequence[Mapping[str, Any]], info: Mapping[str, Any]) -> None:
        """Writes everything except the annotations."""
        self._stream.write("\n]")
        parts = [("images", self.images), ("categories", categories)]
        if self.videos:
            parts.insert(1, ("videos", self.videos))
        for name, rows in parts:
            text = ",\n".join(map(_compact, rows))
            self._stream.write(f',\n"{name}": [\n{text}\n]')
        self._stream.write(f',\n"info": {json.dumps(info)}}}\n')


@contextmanager
def coco_writer(
    path: Path, categories: Sequence[Mapping[str, Any]], info: dict[str, Any]
) -> Iterator[CocoWriter]:
    """Opens a file that appears under its name when the block ends without an error.

    Args:
        path: Path; its directory is created.
        categories: See :func:`categories_of`.
        info: Content of "info". Changes inside the block are written, too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, text=True) as stream:
        file = CocoWriter(stream)
        yield file
        file.finish(categories, info)


def area_of(result: Mapping[str, Any]) -> float:
    """Area of the mask, or of the box if there is no mask, in pixels."""
    if "segmentation" in result:
        return float(mask_util.area(result["segmentation"]))
    return float(result["bbox"][2] * result["bbox"][3])


def categories_of(classes: ClassNames, metadata: Any, with_keypoints: bool) -> list[dict[str, Any]]:
    """Returns COCO's "categories" without reading the data set's files.

    Args:
        classes: Names and ids.
        metadata: Detectron2's metadata, with names and connections of keypoints.
        with_keypoints: Whether the model predicts keypoints.
    """
    made: list[dict[str, Any]] = [
        {"id": category, "name": classes.name(index)}
        for index, category in enumerate(classes.category_ids)
    ]
    names = list(metadata.get("keypoint_names") or ()) if with_keypoints else []
    if names:
        lines = [[a + 1, b + 1] for a, b in Skeleton.of(metadata).lines]
        made = [{**category, "keypoints": names, "skeleton": lines} for category in made]
    return made


def _compact(row: Mapping[str, Any]) -> str:
    return json.dumps(row, separators=(",", ":"))
