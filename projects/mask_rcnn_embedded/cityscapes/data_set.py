"""Writes the embedded Cityscapes data set in Cityscapes' official layout.

Layout below the root (CITY_SSSSSS_FFFFFF: city, sequence, frame)::

    leftImg8bit/{train,val,test}/CITY/CITY_SSSSSS_FFFFFF_leftImg8bit.png    8-bit RGB
    gtFine/{train,val}/CITY/CITY_SSSSSS_FFFFFF_gtFine_polygons.json
    gtFine/{train,val}/CITY/CITY_SSSSSS_FFFFFF_gtFine_instanceIds.png       uint16
    gtFine/{train,val}/CITY/CITY_SSSSSS_FFFFFF_gtFine_labelIds.png          uint8
    manifest.json: the spec, counts and SHA-256 of every file, written last

``test`` has no annotations. (The official one has dummies in which everything is ignored.) The id
images are made from the polygons by ``cityscapesscripts`` itself.
"""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import cv2
from cityscapesscripts.preparation.json2instanceImg import createInstanceImage
from cityscapesscripts.preparation.json2labelImg import createLabelImage

from mask_rcnn_embedded.cityscapes.scene import StreetScene, render, to_annotation
from mask_rcnn_embedded.cityscapes.sheet import tiles
from mask_rcnn_embedded.cityscapes.spec import FULL_SPEC, SPLITS, TINY_SPEC, CityscapesSpec
from mask_rcnn_embedded.cityscapes.stats import format_stats
from mask_rcnn_embedded.data_set import DataSet


def file_names(spec: CityscapesSpec, split: str, index: int) -> dict[str, str]:
    """Files of a picture by kind, relative to the root: ``image`` and, but for ``test``,
    ``polygons``, ``instanceIds`` and ``labelIds``."""
    stem = spec.stem(split, index)
    city = stem.split("_")[0]
    names = {"image": f"leftImg8bit/{split}/{city}/{stem}_leftImg8bit.png"}
    if split != "test":
        for kind, suffix in (("polygons", "json"), ("instanceIds", "png"), ("labelIds", "png")):
            names[kind] = f"gtFine/{split}/{city}/{stem}_gtFine_{kind}.{suffix}"
    return names


def _annotation_files(scene: StreetScene) -> dict[str, bytes]:
    """Content of the annotation files by kind."""
    height, width = scene.image.shape[:2]
    annotation = to_annotation(scene.objects, width, height)
    content = {"imgHeight": height, "imgWidth": width, "objects": scene.objects}
    files = {"polygons": json.dumps(content, separators=(",", ":")).encode()}
    for kind, make in (("instanceIds", createInstanceImage), ("labelIds", createLabelImage)):
        buffer = io.BytesIO()
        make(annotation, "ids").save(buffer, "png")
        files[kind] = buffer.getvalue()
    return files


class EmbeddedCityscapes(DataSet[CityscapesSpec]):
    """The embedded Cityscapes data set; see :mod:`mask_rcnn_embedded.cityscapes`."""

    package = "mask_rcnn_embedded.cityscapes"
    full, tiny = FULL_SPEC, TINY_SPEC
    images_per_worker = 60
    sheet_count, tile_height = 8, 309  # two images of 618 x 309 pixels fill a row
    tiles, format_stats = staticmethod(tiles), staticmethod(format_stats)

    def directories(self, spec: CityscapesSpec) -> set[str]:
        """Directories of all files."""
        tasks = [(split, index) for split in SPLITS for index in range(spec.num_images(split))]
        names = [name for task in tasks for name in file_names(spec, *task).values()]
        return {name.rpartition("/")[0] for name in names}

    def write_image(
        self, root: Path, spec: CityscapesSpec, split: str, index: int
    ) -> dict[str, str]:
        """Writes the files of one picture; returns their SHA-256 by name."""
        scene = render(spec, split, index)
        _, encoded = cv2.imencode(".png", scene.image, [cv2.IMWRITE_PNG_COMPRESSION, 3])
        files = {"image": encoded.tobytes()}
        if split != "test":
            files.update(_annotation_files(scene))
        sums = {}
        for kind, name in file_names(spec, split, index).items():
            (root / name).write_bytes(files[kind])
            sums[name] = hashlib.sha256(files[kind]).hexdigest()
        return sums

    def finish(
        self, root: Path, spec: CityscapesSpec, results: list[dict[str, str]]
    ) -> dict[str, str]:
        """Joins the sums; there is nothing left to write."""
        return {name: value for sums in results for name, value in sums.items()}

    def has_files(self, root: Path, spec: CityscapesSpec, sums: dict[str, Any]) -> bool:
        """Whether every file is there."""
        return all((root / name).is_file() for name in sums)


DATA_SET = EmbeddedCityscapes()
