"""A digest that tells whether two runs used the same annotations."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any

from mask_rcnn_repro.data.catalog import Part
from mask_rcnn_repro.data.cityscapes.registration import cityscapes_metadata
from mask_rcnn_repro.data.coco.fields import read_json
from mask_rcnn_repro.data.datasets import register_names
from mask_rcnn_repro.data.registration import coco_parts, read_registered
from mask_rcnn_repro.errors import DataError


def dataset_fingerprint(
    names: str | Sequence[str], json: str | None = None, image_root: str | None = None
) -> dict[str, Any]:
    """Returns what identifies the annotations of one or several data sets.

    Paths and image bytes are not part of it; the names are told but not hashed.

    Args:
        names: as for :func:`get_test_dicts`.
        json: annotation file of a data set of the user's own.
        image_root: its images.

    Returns:
        ``names`` (list), ``sha256`` (hex digest over the contents of all annotation files, in
        order; of Cityscapes over image ids and the pixels' instance ids), ``num_images`` and
        ``num_instances`` (annotations in the files, crowd regions included).

    Raises:
        DataError: missing or broken files.
    """
    chosen = register_names(names, json, image_root)
    digest = hashlib.sha256()
    images = instances = 0
    for name in chosen:
        for part_digest, num_images, num_instances in _parts(name):
            digest.update(bytes.fromhex(part_digest))
            images += num_images
            instances += num_instances
    return {
        "names": chosen,
        "sha256": digest.hexdigest(),
        "num_images": images,
        "num_instances": instances,
    }


def _parts(name: str) -> list[tuple[str, int, int]]:
    if cityscapes_metadata(name) is not None:
        from mask_rcnn_repro.data.cityscapes.load import annotation_facts

        return [annotation_facts(name)]
    parts = coco_parts(name)
    if parts is not None:
        return [_file_facts(part) for part in parts]
    records = read_registered(name)  # another format: what was read is hashed
    content = json.dumps(records, sort_keys=True, default=str).encode()
    instances = sum(len(record.get("annotations", ())) for record in records)
    return [(hashlib.sha256(content).hexdigest(), len(records), instances)]


def _file_facts(part: Part) -> tuple[str, int, int]:
    try:
        state = os.stat(part.json_file)
    except OSError:
        read_json(part.json_file)  # raises with the full explanation
        raise
    return _read_facts(part.json_file, state.st_mtime_ns, state.st_size)


@functools.lru_cache(maxsize=64)
def _read_facts(json_file: str, mtime_ns: int, size: int) -> tuple[str, int, int]:
    digest = hashlib.sha256()
    with open(json_file, "rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    content = read_json(json_file)
    images, annotations = content.get("images", []), content.get("annotations", [])
    if not isinstance(images, list) or not isinstance(annotations, list):
        raise DataError(
            f"{json_file} is not in COCO format: 'images' and 'annotations' must be lists."
        )
    return digest.hexdigest(), len(images), len(annotations)
