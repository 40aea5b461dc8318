"""Numbers of images: those of the config's test data where the images belong to it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from detectron2.config import instantiate
from detectron2.data import MetadataCatalog
from omegaconf import DictConfig

from mask_rcnn_repro.data.registration import coco_parts
from mask_rcnn_repro.engine.dependencies import data_sets
from mask_rcnn_repro.errors import DataError
from mask_rcnn_tools.predict.sources import Source


def test_image_ids(cfg: DictConfig, sources: Sequence[Source]) -> Mapping[Path, int | str] | None:
    """Image ids by path, if every image is one of the config's test data; otherwise None.

    The data set's files are read only if the images lie in its folders.

    Raises:
        DataError: The images lie there, but the annotations are broken.
    """
    images = {source.path: source.path.resolve() for source in sources if not source.is_video}
    folders = [folder for data in data_sets(cfg, "test") for folder in _folders(data.name)]
    inside = [any(path.is_relative_to(f) for f in folders) for path in images.values()]
    if not images or not all(inside):
        return None
    records = instantiate(cfg.dataloader.test.dataset)
    known = {os.path.realpath(record["file_name"]): record["image_id"] for record in records}
    found = {path: known.get(os.fspath(real)) for path, real in images.items()}
    complete = {path: identity for path, identity in found.items() if identity is not None}
    return complete if len(complete) == len(images) else None


def _folders(name: str) -> list[Path]:
    """Where a data set's images are; nothing if its files are not there."""
    try:
        parts = coco_parts(name)
    except DataError:
        return []
    if parts is not None:
        return [Path(part.image_root).resolve() for part in parts]
    folder = MetadataCatalog.get(name).get("image_dir")
    return [Path(folder).resolve()] if folder is not None else []
