"""Data sets by name, ready to train or test on, and what is known about them without reading.

A data set is given by a registered name, or by any other name with ``json`` and ``image_root``.
These are then registered under that name.
"""

from __future__ import annotations

import difflib
import itertools
import logging
import os
from collections.abc import Sequence
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.build import (
    filter_images_with_few_keypoints,
    filter_images_with_only_crowd_annotations,
)

from mask_rcnn_repro.data.cityscapes.files import check_masks
from mask_rcnn_repro.data.cityscapes.instances import Masks
from mask_rcnn_repro.data.cityscapes.load import load_cityscapes
from mask_rcnn_repro.data.cityscapes.registration import CityscapesMetadata, cityscapes_metadata
from mask_rcnn_repro.data.coco.file import coco_file
from mask_rcnn_repro.data.deep_images import used_bits
from mask_rcnn_repro.data.keypoint_metadata import (
    KeypointSet,
    check_flip_pairs,
    check_sigmas,
    keypoint_metadata,
)
from mask_rcnn_repro.data.registration import (
    LazyMetadata,
    coco_parts,
    read_registered,
    register_all_datasets,
    register_custom,
)
from mask_rcnn_repro.errors import ConfigError, DataError

_logger = logging.getLogger(__name__)

_MAYBE_DEEP = (".png", ".tif", ".tiff")


def get_training_dicts(
    names: str | Sequence[str],
    json: str | None = None,
    image_root: str | None = None,
    filter_empty: bool = True,
    min_keypoints: int = 0,
    flip_pairs: Sequence[Sequence[str]] | None = None,
    image_bits: int | None = None,
) -> list[dict[str, Any]]:
    """Reads data sets for training, one after the other.

    Args:
        names: Registered name or names. With ``json``, the name to register.
        json: Annotation file in COCO format.
        image_root: Directory of that file's images.
        filter_empty: Omit images without any annotation that is not a crowd region.
        min_keypoints: Omit images with fewer labeled keypoints (visibility 1 or 2).
        flip_pairs: With ``json``, the pairs of keypoint names that change places in a mirrored
            image; None takes left and right from the names.
        image_bits: Bits that the values of 16-bit images use, 8 to 16: 12 maps [0, 4096) to
            [0, 256). None takes them from a sample of the images.

    Returns:
        Dicts in Detectron2's format, with ``image_bits`` if there are 16-bit images.

    Raises:
        ConfigError: Json is given without image_root or the reverse, or the name is taken.
        DataError: A name is unknown, files are missing or broken, or there is nothing to train on.
    """
    chosen = register_names(names, json, image_root, flip_pairs=flip_pairs, image_bits=image_bits)
    records = [_read_annotated(name) for name in chosen]
    classes = {name: _class_names(name) for name in chosen}
    for name in chosen[1:]:
        if classes[name] != classes[chosen[0]]:
            raise DataError(
                f"The data sets {chosen[0]!r} and {name!r} have different classes and cannot be "
                f"trained on together: {classes[chosen[0]]} and {classes[name]}."
            )
    dicts = usable_images(list(itertools.chain.from_iterable(records)), filter_empty, min_keypoints)
    if not dicts:
        wanted = f" with at least {min_keypoints} visible keypoints" if min_keypoints else ""
        raise DataError(
            f"No image of {', '.join(chosen)} is left to train on: none has an annotation{wanted} "
            "that is not a crowd region. Check the json, or relax dataset.filter_empty and "
            "dataset.min_keypoints."
        )
    return dicts


def usable_images(
    dicts: list[dict[str, Any]], filter_empty: bool, min_keypoints: int
) -> list[dict[str, Any]]:
    """Returns the images that can be trained on; arguments as for :func:`get_training_dicts`."""
    if filter_empty:
        dicts = filter_images_with_only_crowd_annotations(dicts)
    if min_keypoints > 0:
        dicts = filter_images_with_few_keypoints(dicts, min_keypoints)
    return dicts


def get_test_dicts(
    names: str | Sequence[str],
    json: str | None = None,
    image_root: str | None = None,
    oks_sigmas: Sequence[float] | None = None,
    image_bits: int | None = None,
) -> list[dict[str, Any]]:
    """Reads data sets for testing: all images, with or without annotations.

    Arguments and errors are those of :func:`get_training_dicts`. ``oks_sigmas``, only with
    ``json``, has one standard deviation of the object keypoint similarity per keypoint. COCO's
    keypoints need none.
    """
    chosen = register_names(names, json, image_root, oks_sigmas=oks_sigmas, image_bits=image_bits)
    return [record for name in chosen for record in read_registered(name)]


def get_cityscapes_dicts(
    names: str | Sequence[str], masks: Masks = "instance_ids", filter_empty: bool = True
) -> list[dict[str, Any]]:
    """Reads registered Cityscapes data sets, one after the other.

    Args:
        names: Registered name or names, such as `cityscapes_train`.
        masks: `"instance_ids"` or `"polygons"`, see :func:`load_cityscapes`.
        filter_empty: For training: omit images without an instance that is not a group. False
            keeps all images, also of splits without annotations.

    Returns:
        See :func:`load_cityscapes`.

    Raises:
        ConfigError: If there is no name, `masks` is unknown, or a data set has another format.
        DataError: If a name is unknown, files are missing or broken, or nothing is left to train
            on.
    """
    check_masks(masks)
    metadata = [_require_cityscapes(name) for name in register_names(names, None, None)]
    dicts = []
    for m in metadata:
        root, split, expected = m.cityscapes_root, m.cityscapes_split, m.expected_images
        dicts += load_cityscapes(root, split, masks, expected=expected)
    if not filter_empty:
        return dicts
    unannotated = [m.name for m in metadata if m.cityscapes_split == "test"]
    if unannotated:
        raise DataError(
            f"The data set {unannotated[0]!r} is not annotated and cannot be trained on. Choose an "
            "annotated split, or set dataset.filter_empty=false to read all images for testing."
        )
    dicts = filter_images_with_only_crowd_annotations(dicts)
    if not dicts:
        raise DataError(
            f"No image of {', '.join(m.name for m in metadata)} is left to train on: none has an "
            "instance that is not a group. Check the annotations or set dataset.filter_empty=false."
        )
    return dicts


def dataset_info(
    names: str | Sequence[str], json: str | None = None, image_root: str | None = None
) -> list[str] | None:
    """Returns the class names of a data set without reading its annotations, or None.

    COCO's and the embedded data's classes are known without any file, those of other COCO-format
    data are taken from the json's categories.

    Raises:
        ConfigError: See :func:`get_training_dicts`.
        DataError: A name is unknown, or a json is missing or has no usable categories.
    """
    classes = [_class_names(name) for name in register_names(names, json, image_root)]
    return classes[0]


def dataset_keypoints(
    names: str | Sequence[str],
    json: str | None = None,
    image_root: str | None = None,
    *,
    flip_pairs: Sequence[Sequence[str]] | None = None,
    oks_sigmas: Sequence[float] | None = None,
) -> KeypointSet | None:
    """Returns what is known about the keypoints of a data set. None if it has none.

    Args are those of :func:`get_training_dicts` and :func:`get_test_dicts`.

    Raises:
        ConfigError: Pairs or sigmas, given or in the metadata, that do not fit the keypoints; data
            sets with different keypoints; or as :func:`get_training_dicts`.
        DataError: A name is unknown, or a json is missing or broken.
    """
    chosen = register_names(names, json, image_root, flip_pairs=flip_pairs, oks_sigmas=oks_sigmas)
    found = {name: _keypoints(name) for name in chosen}
    for name in chosen[1:]:
        if found[name] != found[chosen[0]]:
            raise ConfigError(
                f"The data sets {chosen[0]!r} and {name!r} have different keypoints and cannot be "
                f"used together: {found[chosen[0]]} and {found[name]}."
            )
    return found[chosen[0]]


def _keypoints(name: str) -> KeypointSet | None:
    metadata = MetadataCatalog.get(name)
    known = {key: metadata.get(key) for key in LazyMetadata.KEYPOINTS}
    stated = metadata.__dict__.get("_stated") if isinstance(metadata, LazyMetadata) else known
    pairs_stated = (stated or {}).get("keypoint_flip_map") is not None
    if known["keypoint_names"] is None:
        if isinstance(metadata, LazyMetadata) or metadata.get("json_file") is None:
            return None
        # Registered by a user for Detectron2's loader, which knows nothing of the json's names.
        given = {key: value for key, value in known.items() if value is not None}
        known.update(keypoint_metadata(coco_file(metadata.json_file).categories), **given)
        if known["keypoint_names"] is None:
            return None
    names = tuple(known["keypoint_names"])
    where = f"the metadata of {name!r}"
    pairs, sigmas = known["keypoint_flip_map"] or (), tuple(known["keypoint_oks_sigmas"] or ())
    pairs = check_flip_pairs(names, pairs, f"keypoint_flip_map in {where}")
    if sigmas:
        sigmas = check_sigmas(names, sigmas, f"keypoint_oks_sigmas in {where}")
    return KeypointSet(names, pairs, sigmas, pairs_stated)


def register_names(
    names: str | Sequence[str],
    json: str | None,
    image_root: str | None,
    *,
    flip_pairs: Sequence[Sequence[str]] | None = None,
    oks_sigmas: Sequence[float] | None = None,
    image_bits: int | None = None,
) -> list[str]:
    """Registers what the keys of a config's ``dataset`` name, and returns the names as a list.

    Raises:
        ConfigError: No name, or a json without image_root, or the reverse, or a name taken;
            keypoint pairs or sigmas without json, or that do not fit; bits outside [8, 16].
        DataError: A name is not registered.
    """
    register_all_datasets()
    chosen = [names] if isinstance(names, str) else list(names)
    if not chosen:
        raise ConfigError("dataset.names is empty; give at least one data set.")
    if json is not None or image_root is not None:
        if json is None or image_root is None or len(chosen) != 1:
            raise ConfigError(
                "A data set of your own needs dataset.names (one name), dataset.json and "
                f"dataset.image_root; got names={chosen}, json={json}, image_root={image_root}."
            )
        register_custom(chosen[0], json, image_root, flip_pairs=flip_pairs, oks_sigmas=oks_sigmas)
    elif flip_pairs is not None or oks_sigmas is not None:
        raise ConfigError(
            "dataset.flip_pairs and dataset.oks_sigmas describe a json of your own (dataset.json, "
            f"dataset.image_root). What is known about {', '.join(chosen)} is in the metadata "
            "under its name: keypoint_flip_map, keypoint_oks_sigmas."
        )
    known = DatasetCatalog.list()
    for name in chosen:
        if name not in known:
            kinds = (LazyMetadata, CityscapesMetadata)
            ours = [n for n in known if isinstance(MetadataCatalog.get(n), kinds)]
            near = difflib.get_close_matches(name, known, n=3)
            hint = f"Did you mean {' or '.join(near)}? " if near else ""
            raise DataError(
                f"The data set {name!r} is not registered. {hint}A data set of your own in COCO "
                "format needs dataset.json and dataset.image_root too. Registered are, "
                f"beside Detectron2's own: {', '.join(sorted(ours))}."
            )
    if image_bits is not None:
        if not 8 <= image_bits <= 16:
            raise ConfigError(
                f"dataset.image_bits is {image_bits}, but 16-bit images use 8 to 16 bits. Omit it "
                "to take the bits from the images."
            )
        for name in chosen:
            MetadataCatalog.get(name).__dict__["image_bits"] = image_bits
    return chosen


def dataset_image_bits(
    names: str | Sequence[str], json: str | None = None, image_root: str | None = None
) -> int | None:
    """Returns the bits that a user's 16-bit images use; None: 8-bit images, or not known.

    Raises:
        ConfigError: See :func:`get_training_dicts`.
        DataError: A name is unknown, or a json is missing or broken.
    """
    files: list[str] = []
    for name in register_names(names, json, image_root):
        metadata = MetadataCatalog.get(name)
        if not isinstance(metadata, LazyMetadata) or "_custom" in metadata.__dict__:
            for part in coco_parts(name) or ():
                if os.path.isfile(part.json_file):  # the loader reports missing ones
                    listed = coco_file(part.json_file).file_names(_MAYBE_DEEP)
                    files += [os.path.join(part.image_root, file) for file in listed]
    return used_bits(files)


def _read_annotated(name: str) -> list[dict[str, Any]]:
    records = read_registered(name)
    if not any(record.get("annotations") for record in records):
        parts = coco_parts(name)
        files = ", ".join(part.json_file for part in parts) if parts else "its files"
        raise DataError(
            f"The training set {name!r} has {len(records)} images but not a single usable "
            f"annotation ({files}). Test and unlabeled splits cannot be trained on; choose an "
            "annotated one."
        )
    return records


def _require_cityscapes(name: str) -> CityscapesMetadata:
    metadata = cityscapes_metadata(name)
    if metadata is None:
        raise ConfigError(
            f"The data set {name!r} is not in Cityscapes' format. Give dataset.names a Cityscapes "
            "data set (cityscapes_train, embedded_cityscapes_train, ...), or read it with "
            "dataset._target_=mask_rcnn_repro.data.get_training_dicts."
        )
    return metadata


def _class_names(name: str) -> list[str] | None:
    metadata = MetadataCatalog.get(name)
    classes = metadata.get("thing_classes")
    if classes is None and metadata.get("json_file") is not None and coco_parts(name) is not None:
        # Registered by a user for Detectron2's loader, which finds the classes when it reads.
        classes = coco_file(metadata.json_file).categories.names
    return None if classes is None else list(classes)
