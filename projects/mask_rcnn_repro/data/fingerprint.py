"""A digest that shows whether two runs used the same annotations."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from mask_rcnn_repro.data.cityscapes.load import annotation_facts
from mask_rcnn_repro.data.cityscapes.registration import cityscapes_metadata
from mask_rcnn_repro.data.coco.file import coco_file
from mask_rcnn_repro.data.crops import crops_facts
from mask_rcnn_repro.data.datasets import register_names
from mask_rcnn_repro.data.registration import coco_parts, read_registered


def dataset_fingerprint(
    names: str | Sequence[str], json: str | None = None, image_root: str | None = None
) -> dict[str, Any]:
    """Returns what identifies the annotations of one or several data sets.

    Paths and image bytes are not part of it; the names are returned but not hashed.

    Args:
        names: See :func:`get_test_dicts`.
        json: Annotation file of the user's own data set.
        image_root: Directory of its images.

    Returns:
        ``names`` (list), ``sha256`` (hex digest over the contents of all annotation files, in
        order; of Cityscapes over image ids and the pixels' instance ids; of crops over their
        spec), ``num_images`` and ``num_instances`` (annotations, crowd regions included).

    Raises:
        DataError: Files are missing or broken.
    """
    chosen = register_names(names, json, image_root)
    parts = [part for name in chosen for part in _parts(name)]
    return {
        "names": chosen,
        "sha256": hashlib.sha256(b"".join(bytes.fromhex(part[0]) for part in parts)).hexdigest(),
        "num_images": sum(part[1] for part in parts),
        "num_instances": sum(part[2] for part in parts),
    }


def _parts(name: str) -> list[tuple[str, int, int]]:
    """Returns the digest, images and instances of each annotation file."""
    cityscapes = cityscapes_metadata(name)
    if cityscapes is not None:
        root, split = cityscapes.cityscapes_root, cityscapes.cityscapes_split
        return [annotation_facts(root, split, cityscapes.expected_images)]
    crops, parts = crops_facts(name), coco_parts(name)
    if crops is not None:
        return [crops]
    if parts is not None:
        return [coco_file(part.json_file).facts for part in parts]
    records = read_registered(name)  # another format: hash what was read
    content = json.dumps(records, sort_keys=True, default=str).encode()
    instances = sum(len(record.get("annotations", ())) for record in records)
    return [(hashlib.sha256(content).hexdigest(), len(records), instances)]
