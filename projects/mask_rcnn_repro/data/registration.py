"""Data sets in Detectron2's ``DatasetCatalog`` and ``MetadataCatalog``.

Registering opens no file. Metadata that depends on files (``json_file``, ``image_root``, class
names taken from a json) is found when it is first asked for, by whoever asks: Detectron2's own
tools therefore work with these names too.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.data.datasets.builtin_meta import _get_builtin_metadata

from mask_rcnn_repro.data import catalog
from mask_rcnn_repro.data.catalog import Part
from mask_rcnn_repro.data.cityscapes.registration import register_cityscapes
from mask_rcnn_repro.data.coco.file import coco_file
from mask_rcnn_repro.data.coco.load import load_coco_json
from mask_rcnn_repro.data.crops import register_crops
from mask_rcnn_repro.data.deep_images import used_bits
from mask_rcnn_repro.data.keypoint_metadata import (
    COCO_PERSON_SIGMAS,
    check_flip_pairs,
    check_sigmas,
    keypoint_metadata,
)
from mask_rcnn_repro.errors import ConfigError, DataError


class LazyMetadata(Metadata):
    """Metadata whose file-dependent fields are found when they are first read.

    ``json_file`` and ``image_root`` exist for data sets of one annotation file. Sets of several
    files have ``json_files`` and ``image_roots`` only, so that evaluators which need one file
    convert the dicts instead of silently using a part.
    """

    _FILES = ("json_file", "image_root", "json_files", "image_roots")
    _CLASSES = ("thing_classes", "thing_dataset_id_to_contiguous_id")
    KEYPOINTS = (
        "keypoint_names",
        "keypoint_flip_map",
        "keypoint_connection_rules",
        "keypoint_oks_sigmas",
    )

    def __getattr__(self, key: str) -> Any:
        fields = self.__dict__
        if key in self._FILES and "_find" in fields:
            parts: tuple[Part, ...] = fields["_find"]()
            files, roots = [part.json_file for part in parts], [part.image_root for part in parts]
            found: dict[str, Any] = {"json_files": files, "image_roots": roots}
            if len(parts) == 1:
                found.update(json_file=files[0], image_root=roots[0])
            if key in found:
                # Not stored: the root may change, and looking again is cheap.
                return found[key]
        elif key in self._CLASSES and "_find" in fields:
            generated = catalog.embedded_categories(fields["name"])  # without generating the data
            categories = generated or coco_file(fields["_find"]()[0].json_file).categories
            fields.setdefault("thing_classes", list(categories.names))
            fields.setdefault("thing_dataset_id_to_contiguous_id", dict(categories.id_map))
            return fields[key]
        elif key in self.KEYPOINTS and "_custom" in fields:
            categories = coco_file(fields["_find"]()[0].json_file).categories
            for name, value in keypoint_metadata(categories).items():
                fields.setdefault(name, value)
            if key in fields:
                return fields[key]
        return super().__getattr__(key)


def register_all_datasets() -> None:
    """Registers the paper's splits of COCO, its unlabeled images, Cityscapes and all embedded data.

    Idempotent, and opens no file. Detectron2 registers COCO 2014 and 2017 itself on import.
    """
    register_cityscapes()
    register_crops()
    coco = {"evaluator_type": "coco", **_get_builtin_metadata("coco")}
    person = {
        "evaluator_type": "coco_person",
        "thing_dataset_id_to_contiguous_id": {1: 0},
        "keypoint_oks_sigmas": COCO_PERSON_SIGMAS,
        **_get_builtin_metadata("coco_person"),
    }
    for names, static in (
        (catalog.COCO_SOURCES, coco),
        ({**catalog.COCO_PERSON_SOURCES, **catalog.EMBEDDED_PERSON}, person),
        (catalog.EMBEDDED, {"evaluator_type": "coco"}),
    ):
        for name in names:
            _register(name, functools.partial(catalog.find_parts, name), static)


def register_custom(
    name: str,
    json_file: str,
    image_root: str,
    *,
    flip_pairs: Sequence[Sequence[str]] | None = None,
    oks_sigmas: Sequence[float] | None = None,
) -> None:
    """Registers any data set in COCO format under a name of the user's choice.

    Class names and ids, and the names and lines of keypoints, are taken from the json when they are
    first needed; ids need not be contiguous. Repeating a registration with the same files does
    nothing but add what was not given before.

    Args:
        name: Not the name of another data set.
        json_file: Annotation file; a relative path starts at the working directory.
        image_root: Folder of the images.
        flip_pairs: Keypoints that change places in a mirrored image; None takes left and right from
            the names.
        oks_sigmas: One standard deviation a keypoint for the object keypoint similarity; None:
            COCO's where the keypoints are COCO's, else not known.

    Raises:
        ConfigError: The name already stands for other files, or for other pairs or sigmas; or these
            do not fit the json's keypoints.
        DataError: Pairs or sigmas for a json that is missing or has no keypoints.
    """
    part = Part(os.path.abspath(json_file), os.path.abspath(image_root))
    if name in DatasetCatalog:
        fields = MetadataCatalog.get(name).__dict__
        if fields.get("_custom") != part:
            taken = f"the files {fields['_custom']}" if "_custom" in fields else "another data set"
            raise ConfigError(
                f"The data set name {name!r} already stands for {taken}; got {part}. Give each "
                "pair of json and image_root a name of its own (dataloader.train.dataset.names, "
                "dataloader.test.dataset.names)."
            )
    else:
        _register(name, lambda: (part,), {"evaluator_type": "coco", "_custom": part})
    if flip_pairs is None and oks_sigmas is None:
        return
    names = coco_file(part.json_file).categories.keypoint_names
    if not names:
        raise DataError(
            f"{part.json_file} has no category with 'keypoints' (their names), so dataset."
            "flip_pairs and dataset.oks_sigmas have no meaning. Add the names to its category, or "
            "take the keys out."
        )
    given: dict[str, tuple[Any, ...]] = {}
    if flip_pairs is not None:
        given["keypoint_flip_map"] = check_flip_pairs(names, flip_pairs, "dataset.flip_pairs")
    if oks_sigmas is not None:
        given["keypoint_oks_sigmas"] = check_sigmas(names, oks_sigmas, "dataset.oks_sigmas")
    fields = MetadataCatalog.get(name).__dict__
    stated = fields.setdefault("_stated", {})
    for key, value in given.items():
        if stated.setdefault(key, value) != value:
            raise ConfigError(
                f"The data set {name!r} has two values of {key}: {stated[key]} and {value}. Give "
                "dataloader.train.dataset and dataloader.test.dataset the same, or two names."
            )
        fields[key] = value


def read_registered(name: str) -> list[dict[str, Any]]:
    """Returns the dicts of a registered data set, read with this project's checks.

    COCO-format data sets that Detectron2 or a user registered are read by the same loader; data
    sets of other formats by the function that they were registered with.

    Raises:
        DataError: Files that are missing or broken.
    """
    metadata = MetadataCatalog.get(name)
    parts = coco_parts(name)
    if parts is None:
        try:
            return list(DatasetCatalog.get(name))
        except OSError as error:
            raise DataError(f"The data set {name!r} cannot be read: {error}.") from error
    return [record for part in parts for record in _read_part(metadata, part)]


def coco_parts(name: str) -> tuple[Part, ...] | None:
    """Returns the files of a registered data set in COCO format, None for other formats.

    Raises:
        DataError: One of our data sets whose files are not there.
    """
    metadata = MetadataCatalog.get(name)
    if isinstance(metadata, LazyMetadata):
        files, roots = metadata.json_files, metadata.image_roots
        return tuple(Part(file, root) for file, root in zip(files, roots, strict=True))
    in_coco_format = metadata.get("evaluator_type") in ("coco", "coco_person")
    file, root = metadata.get("json_file"), metadata.get("image_root")
    if not in_coco_format or file is None or root is None:
        return None
    return (Part(os.fspath(file), os.fspath(root)),)


def _read_part(metadata: Metadata, part: Part) -> list[dict[str, Any]]:
    # Not through Metadata's getter and setter, which would look for lazy fields first.
    fields = metadata.__dict__
    expected = fields.get("thing_classes")
    data = load_coco_json(part.json_file, part.image_root, expected)
    if data.categories is not None and (data.annotated or expected is None):
        ids = dict(data.categories.id_map)
        fields.setdefault("thing_classes", list(data.categories.names))
        known_ids = fields.setdefault("thing_dataset_id_to_contiguous_id", ids)
        if known_ids != ids:
            raise DataError(
                f"{part.json_file} numbers its categories {sorted(ids)}, but the data set "
                f"{metadata.name!r} has the numbers {sorted(known_ids)}, so results could not be "
                "distinguished. Renumber the categories, or register the file under another name."
            )
        for key, value in keypoint_metadata(data.categories).items():
            fields.setdefault(key, value)
    bits = fields.get("image_bits") or used_bits(record["file_name"] for record in data.dicts)
    for record in data.dicts if bits else ():
        record["image_bits"] = bits
    return data.dicts


def _register(name: str, find: Callable[[], tuple[Part, ...]], static: dict[str, Any]) -> None:
    if name in DatasetCatalog:
        return
    DatasetCatalog.register(name, functools.partial(read_registered, name))
    metadata = LazyMetadata(name=name)
    metadata.__dict__.update(static, _find=find)
    MetadataCatalog[name] = metadata
