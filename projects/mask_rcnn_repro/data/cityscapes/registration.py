"""Names of the Cityscapes data sets: the real one and the generated ones in its layout.

Registering opens no file; classes are known without any, folders are found when first asked for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata

from mask_rcnn_repro.data.catalog import datasets_root, generated_root
from mask_rcnn_repro.data.cityscapes import files
from mask_rcnn_repro.data.cityscapes.labels import EVALUATED, LABEL_TO_CLASS, THING_CLASSES
from mask_rcnn_repro.data.cityscapes.load import load_cityscapes

CITYSCAPES: Mapping[str, str] = {f"cityscapes_{split}": split for split in files.SPLITS}

# Embedded data sets: name -> (name of the generator's spec, split).
EMBEDDED_CITYSCAPES: Mapping[str, tuple[str, str]] = {
    f"{prefix}_cityscapes_{split}": (spec, split)
    for prefix, spec in (("embedded", "FULL_SPEC"), ("embedded_tiny", "TINY_SPEC"))
    for split in files.SPLITS
}


class CityscapesMetadata(Metadata):
    """Metadata whose folders are found, and generated if need be, when they are first read.

    ``cityscapes_root`` holds ``leftImg8bit`` and ``gtFine``; ``image_dir`` and ``gt_dir`` are the
    split's folders in them, under the names that Detectron2's own Cityscapes tools read.
    """

    _FOLDERS = ("cityscapes_root", "image_dir", "gt_dir")

    def __getattr__(self, key: str) -> Any:
        fields = self.__dict__
        if key in self._FOLDERS and "_find" in fields:
            # Not stored: the root may change, and looking again is cheap.
            root: Path = fields["_find"]()
            folders = {
                "cityscapes_root": root,
                "image_dir": root / files.IMAGE_FOLDER / fields["cityscapes_split"],
                "gt_dir": root / files.ANNOTATION_FOLDER / fields["cityscapes_split"],
            }
            return str(folders[key])
        return super().__getattr__(key)

    @property
    def expected_images(self) -> int | None:
        """Images in the official release, None for generated data."""
        return self.__dict__["_expected"]


def register_cityscapes() -> None:
    """Registers the data sets unless they are registered. Opens no file."""
    for name, split in CITYSCAPES.items():
        size = files.OFFICIAL_SIZES[split]
        _register(name, split, lambda: datasets_root() / "cityscapes", size)
    for name, (spec, split) in EMBEDDED_CITYSCAPES.items():
        _register(name, split, functools.partial(generated_root, "cityscapes", spec))


def cityscapes_metadata(name: str) -> CityscapesMetadata | None:
    """Returns the metadata of one of these data sets, None for others."""
    metadata = MetadataCatalog.get(name) if name in DatasetCatalog else None
    return metadata if isinstance(metadata, CityscapesMetadata) else None


def _read(name: str) -> list[dict[str, Any]]:
    metadata: Any = MetadataCatalog.get(name)
    return load_cityscapes(
        metadata.cityscapes_root, metadata.cityscapes_split, expected=metadata.expected_images
    )


def _register(name: str, split: str, find: Callable[[], Path], expected: int | None = None) -> None:
    if name in DatasetCatalog:
        return
    DatasetCatalog.register(name, functools.partial(_read, name))
    metadata = CityscapesMetadata(name=name)
    metadata.__dict__.update(
        evaluator_type="cityscapes_instance",
        thing_classes=list(THING_CLASSES),
        thing_colors=[label.color for label in EVALUATED],
        thing_dataset_id_to_contiguous_id=dict(LABEL_TO_CLASS),
        cityscapes_split=split,
        _find=find,
        _expected=expected,
    )
    MetadataCatalog[name] = metadata
