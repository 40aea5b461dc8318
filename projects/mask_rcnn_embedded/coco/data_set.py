"""Writes the embedded data set in COCO's layout.

Layout below the root::

    {train,val,unlabeled}/000000000001.jpg (a tenth of them .png)
    annotations/instances_{train,val}.json, person_keypoints_{train,val}.json
    annotations/image_info_unlabeled.json
    manifest.json: the spec, counts and SHA-256 of everything, written last
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mask_rcnn_embedded.coco.annotate import annotate
from mask_rcnn_embedded.coco.scene import Scene, render
from mask_rcnn_embedded.coco.sheet import draw_annotations
from mask_rcnn_embedded.coco.spec import (
    FULL_SPEC,
    IDS_PER_SPLIT,
    SKELETON,
    SPLITS,
    TINY_SPEC,
    EmbeddedSpec,
)
from mask_rcnn_embedded.coco.stats import format_stats
from mask_rcnn_embedded.data_set import DataSet
from mask_rcnn_embedded.drawing.person import KEYPOINT_NAMES

_LICENSES = [
    {"id": 1, "name": "CC0 1.0", "url": "https://creativecommons.org/publicdomain/zero/1.0/"}
]


def _split_json(
    spec: EmbeddedSpec, split: str, results: list[dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Contents of the annotation files of a split by file name."""
    head = {
        "info": {
            "description": "Embedded data set: generated pictures",
            "version": str(spec.version),
            "year": 2017,
            "fingerprint": spec.fingerprint(),
        },
        "licenses": _LICENSES,
        "images": [r["image"] for r in results],
    }
    categories = [dict(c) for c in spec.CATEGORIES]
    if split == "unlabeled":
        return {"image_info_unlabeled.json": {**head, "categories": categories}}
    instances, persons = [], []
    number = SPLITS.index(split) * IDS_PER_SPLIT * 100
    for result in results:
        for annotation in result["annotations"]:
            number += 1
            full = {"id": number, "image_id": result["image"]["id"], **annotation}
            bare = {k: v for k, v in full.items() if k not in ("keypoints", "num_keypoints")}
            instances.append(bare)
            if "keypoints" in full:
                persons.append(full)
    person = {
        **categories[0],
        "keypoints": list(KEYPOINT_NAMES),
        "skeleton": [list(pair) for pair in SKELETON],
    }
    return {
        f"instances_{split}.json": {**head, "annotations": instances, "categories": categories},
        f"person_keypoints_{split}.json": {**head, "annotations": persons, "categories": [person]},
    }


class EmbeddedData(DataSet[EmbeddedSpec]):
    """The embedded data set; see :mod:`mask_rcnn_embedded.coco`.

    Attributes:
        render: one scene and its random generator, given the spec, the split and the index.
    """

    package = "mask_rcnn_embedded.coco"
    full, tiny = FULL_SPEC, TINY_SPEC
    images_per_worker = 150
    sheet_count, tile_height = 16, 240
    format_stats = staticmethod(format_stats)
    render: Callable[..., tuple[Scene, np.random.Generator]] = staticmethod(render)

    def tiles(
        self, spec: EmbeddedSpec, split: str, index: int, annotated: bool
    ) -> list[np.ndarray]:
        """One picture, with its annotations if ``annotated``."""
        scene, _ = self.render(spec, split, index)
        return [draw_annotations(scene.image, annotate(scene) if annotated else [])]

    def directories(self, spec: EmbeddedSpec) -> tuple[str, ...]:
        """Directories of the images and of the annotations."""
        return (*SPLITS, "annotations")

    def write_image(self, root: Path, spec: EmbeddedSpec, split: str, index: int) -> dict[str, Any]:
        """Writes one image; returns its COCO entry, annotations and SHA-256."""
        scene, rng = self.render(spec, split, index)
        image_id = SPLITS.index(split) * IDS_PER_SPLIT + index + 1
        if rng.random() < spec.png_fraction:
            suffix, options = ".png", [cv2.IMWRITE_PNG_COMPRESSION, 3]
        else:
            suffix, options = ".jpg", [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(72, 96))]
        _, encoded = cv2.imencode(suffix, scene.image, options)
        data, name = encoded.tobytes(), f"{image_id:012d}{suffix}"
        (root / split / name).write_bytes(data)
        height, width = scene.image.shape[:2]
        entry = {"id": image_id, "file_name": name, "width": width, "height": height, "license": 1}
        return {
            "image": entry,
            "annotations": [] if split == "unlabeled" else annotate(scene),
            "sha256": hashlib.sha256(data).hexdigest(),
        }

    def finish(
        self, root: Path, spec: EmbeddedSpec, results: list[dict[str, Any]]
    ) -> dict[str, Any]:
        """Writes the annotation files."""
        sums: dict[str, Any] = {"images": {}, "annotations": {}}
        for split in SPLITS:
            count = spec.num_images(split)
            part, results = results[:count], results[count:]
            joined = "".join(r["sha256"] for r in part)
            sums["images"][split] = hashlib.sha256(joined.encode()).hexdigest()
            for name, content in _split_json(spec, split, part).items():
                data = json.dumps(content, separators=(",", ":")).encode()
                (root / "annotations" / name).write_bytes(data)
                sums["annotations"][name] = hashlib.sha256(data).hexdigest()
        return sums

    def has_files(self, root: Path, spec: EmbeddedSpec, sums: dict[str, Any]) -> bool:
        """Whether the annotation files and as many images as the spec says are there."""
        return all((root / "annotations" / name).is_file() for name in sums["annotations"]) and all(
            len(os.listdir(root / split)) >= spec.num_images(split) for split in SPLITS
        )


DATA_SET = EmbeddedData()
