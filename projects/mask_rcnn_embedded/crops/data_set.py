"""Draws and writes the crops in ImageNet's layout.

Layout below the root::

    {train,val}/CLASS/00001.jpg
    manifest.json: the spec, counts and SHA-256 of the images, written last
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mask_rcnn_embedded.coco.background import make_background
from mask_rcnn_embedded.coco.scene import Scene, compose, enlarged, log_uniform
from mask_rcnn_embedded.crops.spec import CLASSES, FULL_SPEC, SPLITS, TINY_SPEC, CropSpec
from mask_rcnn_embedded.data_set import DataSet
from mask_rcnn_embedded.drawing.solid import Solid
from mask_rcnn_embedded.drawing.textures import random_color
from mask_rcnn_embedded.drawing.things import make_object
from mask_rcnn_embedded.sheet import put_name
from mask_rcnn_embedded.stats import markdown_table

MIN_VISIBLE = 0.5
"""Of the thing that a crop is about at least this share is visible."""


def _centred(solids: list[Solid], center: np.ndarray) -> None:
    """Moves solids together so that the middle of their box is at ``center``."""
    bounds = np.array([solid.bounds() for solid in solids])
    middle = 0.5 * (bounds[:, :2].min(axis=0) + bounds[:, 2:].max(axis=0))
    for solid in solids:
        solid.transform(np.eye(2), center - middle)


def _background(rng: np.random.Generator, side: int) -> np.ndarray:
    """A part of a larger background, which is as coarse as in the detection images."""
    half, whole = (side + 1) // 2, round(side * rng.uniform(0.6, 1.8))
    top, left = rng.integers(0, whole - half + 1, 2)
    image = make_background(rng, whole, whole)[:, top : top + half, left : left + half]
    return enlarged(rng, image, side, side)


def render(spec: CropSpec, split: str, index: int) -> Scene:
    """One thing about the middle of the picture, with others beside, behind and before it."""
    rng = spec.image_rng(split, index)
    side = float(spec.side)
    theme = [random_color(rng) for _ in range(4)]
    extent = log_uniform(rng, 0.22, 0.75) * side
    target = make_object(rng, spec.classes[index % spec.num_classes], extent, theme)
    _centred(target, side * rng.normal(0.5, 0.07, 2))
    behind: list[Solid] = []
    before: list[Solid] = []
    for _ in range(int(rng.poisson(1.3))):
        other = CLASSES[int(rng.integers(len(CLASSES)))] if rng.random() < 0.7 else None
        solids = make_object(rng, other, extent * log_uniform(rng, 0.3, 1.4), theme)
        angle, reach = rng.uniform(0.0, 2 * np.pi), rng.uniform(0.4, 0.75) * side
        _centred(solids, 0.5 * side + reach * np.array([np.cos(angle), np.sin(angle)]))
        (behind if rng.random() < 0.65 else before).extend(solids)
    image = _background(rng, spec.side)
    state = rng.bit_generator.state
    scene = compose(rng, image.copy(), [*behind, *target, *before], MIN_VISIBLE)
    if before and not any(solid is target[0] for solid in scene.solids):  # too much is hidden
        rng.bit_generator.state = state
        scene = compose(rng, image, [*behind, *target], MIN_VISIBLE)
    return scene


def format_stats(root: str | Path) -> str:
    """A Markdown table of the number of images and classes of both splits."""
    rows = []
    for split in SPLITS:
        counts = [len(os.listdir(path)) for path in sorted((Path(root) / split).iterdir())]
        rows.append((split, len(counts), sum(counts), f"{min(counts)} to {max(counts)}"))
    return markdown_table(["split", "classes", "images", "images per class"], rows)


class Crops(DataSet[CropSpec]):
    """The crops; see :mod:`mask_rcnn_embedded.crops`."""

    package = "mask_rcnn_embedded.crops"
    full, tiny = FULL_SPEC, TINY_SPEC
    images_per_worker = 300
    sheet_count, tile_height = 84, 96
    format_stats = staticmethod(format_stats)

    def tiles(self, spec: CropSpec, split: str, index: int, annotated: bool) -> list[np.ndarray]:
        """One crop, with the name of its class if ``annotated``."""
        image = np.ascontiguousarray(render(spec, split, index).image)
        if annotated:
            put_name(image, spec.classes[index % spec.num_classes], 2, 12, (255, 255, 255))
        return [image]

    def directories(self, spec: CropSpec) -> list[str]:
        """Directories of the classes."""
        return [f"{split}/{name}" for split in SPLITS for name in spec.classes]

    def write_image(self, root: Path, spec: CropSpec, split: str, index: int) -> str:
        """Writes one crop; returns its SHA-256."""
        image = render(spec, split, index).image
        data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
        (root / spec.file_name(split, index)).write_bytes(data)
        return hashlib.sha256(data).hexdigest()

    def finish(self, root: Path, spec: CropSpec, results: list[str]) -> dict[str, str]:
        """Joins the sums of each split; there is nothing left to write."""
        sums = {}
        for split in SPLITS:
            part, results = results[: spec.num_images(split)], results[spec.num_images(split) :]
            sums[split] = hashlib.sha256("".join(part).encode()).hexdigest()
        return sums

    def has_files(self, root: Path, spec: CropSpec, sums: dict[str, Any]) -> bool:
        """Whether there are as many images as the spec says."""
        return all(
            sum(len(os.listdir(root / split / name)) for name in spec.classes)
            >= spec.num_images(split)
            for split in SPLITS
        )


DATA_SET = Crops()
