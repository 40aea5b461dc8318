"""The embedded crops for pre-training in Detectron2's catalogs: one class for each image."""

from __future__ import annotations

import functools
import hashlib
from typing import TYPE_CHECKING, Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata

from mask_rcnn_repro.data.catalog import EMBEDDED_CROPS, generated_root

if TYPE_CHECKING:
    from mask_rcnn_embedded.crops import CropSpec


class CropsMetadata(Metadata):
    """Metadata whose ``thing_classes``, in the order of ``category_id``, are found when read."""

    def __getattr__(self, key: str) -> Any:
        if key == "thing_classes" and "_spec_name" in self.__dict__:
            self.__dict__[key] = list(_spec(self.__dict__["_spec_name"]).classes)
            return self.__dict__[key]
        return super().__getattr__(key)


def register_crops() -> None:
    """Registers the crops unless they are registered. Opens no file."""
    for name, (spec_name, split) in EMBEDDED_CROPS.items():
        if name in DatasetCatalog:
            continue
        DatasetCatalog.register(name, functools.partial(load_crops, spec_name, split))
        metadata = CropsMetadata(name=name)
        metadata.__dict__.update(_spec_name=spec_name, evaluator_type="classification")
        MetadataCatalog[name] = metadata


def _spec(spec_name: str) -> CropSpec:
    from mask_rcnn_embedded import crops

    spec: CropSpec = getattr(crops, spec_name)
    return spec


def crops_facts(name: str) -> tuple[str, int, int] | None:
    """Returns digest, images and instances of crops without making them; None for other data."""
    if name not in EMBEDDED_CROPS:
        return None
    spec_name, split = EMBEDDED_CROPS[name]
    spec = _spec(spec_name)
    digest = hashlib.sha256(f"{spec.fingerprint()}/{split}".encode()).hexdigest()
    return digest, spec.num_images(split), 0


def load_crops(spec_name: str, split: str) -> list[dict[str, Any]]:
    """Returns the dicts of a split, and generates the images on the first call.

    Args:
        spec_name: Name of a spec in :mod:`mask_rcnn_embedded.crops`.
        split: ``train`` or ``val``.

    Returns:
        For each image ``file_name``, ``height``, ``width``, ``image_id`` (from 1) and
        ``category_id`` (from 0). The classes take turns.
    """
    spec = _spec(spec_name)
    root = generated_root("crops", spec_name)
    return [
        {
            "file_name": str(root / spec.file_name(split, index)),
            "height": spec.side,
            "width": spec.side,
            "image_id": index + 1,
            "category_id": index % spec.num_classes,
        }
        for index in range(spec.num_images(split))
    ]
