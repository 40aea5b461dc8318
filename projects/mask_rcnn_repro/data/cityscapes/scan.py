"""Reads all annotations of a split once and caches the instances.

Decoding 3,000 instance images takes minutes, so images are scanned by several processes, and the
result is cached below the directory of the embedded data (``MASK_RCNN_REPRO_CACHE``), in
``cityscapes_scans/``: a gzipped json for each root, split and source of masks. Each entry carries
size and modification time of its image and annotation. Changed files are scanned again. A cache
that is damaged or of another version is replaced. If several processes need the same scan, one
makes it and the others wait.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import json
import logging
import multiprocessing
import os
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mask_rcnn_embedded.cache import embedded_root, file_lock
from mask_rcnn_embedded.parallel import map_in_processes
from mask_rcnn_repro.data.cityscapes.files import ImageFiles, list_files
from mask_rcnn_repro.data.cityscapes.instances import (
    READERS,
    Instance,
    Masks,
    find_instances,
    ids_digest,
    image_size,
)
from mask_rcnn_repro.data.cityscapes.labels import THING_CLASSES
from mask_rcnn_repro.errors import DataError
from mask_rcnn_repro.utils.atomic import atomic_write
from mask_rcnn_repro.utils.threads import usable_cpus

_logger = logging.getLogger(__name__)

# To be raised whenever the same files would give other entries.
SCAN_VERSION = 2

# A process for every so many images: fewer do not pay for its start.
_IMAGES_PER_PROCESS = 25

_DAMAGED = (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, zlib.error)


@dataclass(frozen=True)
class ScannedImage:
    """What is known about one image.

    Attributes:
        digest: SHA-256 of its instance ids (:func:`ids_digest`), of its size on the test split.
        instances: In the order of their ids; None on the test split.
    """

    files: ImageFiles
    height: int
    width: int
    digest: str
    instances: tuple[Instance, ...] | None


def scan(
    root: str | os.PathLike[str],
    split: str,
    masks: Masks = "instance_ids",
    num_workers: int | None = None,
    expected: int | None = None,
) -> list[ScannedImage]:
    """Returns all images of a split with their instances, from the cache as far as it is valid.

    Args:
        root: The folder that holds ``leftImg8bit`` and ``gtFine``.
        split: `"train"`, `"val"` or `"test"`; test is not annotated.
        masks: `"instance_ids"` or `"polygons"`.
        num_workers: Processes; None chooses by the number of images and cores, 0 and 1 stay in
            this process. The result does not depend on it.
        expected: See :func:`list_files`, also for the errors.

    Returns:
        Sorted by city and image id.

    Raises:
        DataError: A file is damaged. The message names it.
    """
    files = list_files(root, split, masks, expected)
    place = os.path.abspath(root)
    key: dict[str, Any] = {"version": SCAN_VERSION, "root": place, "split": split, "masks": masks}
    key["classes"] = list(THING_CLASSES)
    name = hashlib.sha256(place.encode()).hexdigest()[:16]
    path = embedded_root() / "cityscapes_scans" / f"{split}-{masks}-{name}.json.gz"
    with contextlib.suppress(OSError):  # a read-only cache: scanned without
        path.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(path.with_name(f"{path.name}.lock")):
        entries, state = _read_cache(path, key)
        stamps = {f.image_id: _stamp(f, place) for f in files}
        kept = {
            image_id: entries[image_id]
            for image_id, stamp in stamps.items()
            if image_id in entries and entries[image_id]["stamp"] == stamp
        }
        todo = [f for f in files if f.image_id not in kept]
        if todo:
            new = _scan_all(todo, masks, num_workers, f"Cityscapes {split}")
            for file, entry in zip(todo, new, strict=True):
                i = file.image_id
                kept[i] = {"image_id": i, "stamp": stamps[i], **entry}
        if todo or len(entries) != len(kept):
            state += _write_cache(path, key, [kept[f.image_id] for f in files])
    scanned = [_scanned(f, kept[f.image_id]) for f in files]
    _logger.info(
        "Cityscapes %s below %s: %d images, %d instances and groups (%s); %d scanned, %d taken "
        "from the cache %s%s",
        *(split, root, len(scanned), sum(len(s.instances or ()) for s in scanned), masks),
        *(len(todo), len(files) - len(todo), path, state),
    )
    return scanned


def _scan_image(files: ImageFiles, masks: Masks) -> dict[str, Any]:
    """Scans one image; the result is plain json."""
    height, width = image_size(files.image)
    entry: dict[str, Any] = {"size": [height, width]}
    if files.annotation is None:
        entry["digest"] = hashlib.sha256(f"{height}x{width}".encode()).hexdigest()
        entry["instances"] = None
        return entry
    ids = READERS[masks](files.annotation, (height, width))
    entry["digest"] = ids_digest(ids)
    entry["instances"] = [list(instance) for instance in find_instances(ids, masks)]
    return entry


def _scan_all(
    files: Sequence[ImageFiles], masks: Masks, num_workers: int | None, title: str
) -> list[dict[str, Any]]:
    """Scans images in the order given, with a progress bar where it takes long."""
    workers = _default_workers(len(files)) if num_workers is None else min(num_workers, len(files))
    if multiprocessing.current_process().daemon:
        workers = 1  # loader workers, which must not have processes of their own
    few, interval = len(files) < 2 * _IMAGES_PER_PROCESS, 0.3 if sys.stderr.isatty() else 5.0
    bar = functools.partial(
        tqdm, total=len(files), desc=title, unit="img", disable=few, mininterval=interval
    )
    work = functools.partial(_scan_image, masks=masks)
    if workers <= 1:
        return list(bar(map(work, files)))
    # Forked processes use neither torch nor OpenCV, whose threads they lack.
    with contextlib.closing(map_in_processes(work, files, workers, chunksize=4)) as results:
        return list(bar(results))


def _default_workers(num_images: int) -> int:
    return max(1, min(usable_cpus(), num_images // _IMAGES_PER_PROCESS))


def _stamp(files: ImageFiles, root: str) -> list[Any]:
    """What shows that the files of an image are those that were scanned."""
    stamp: list[Any] = []
    for file in (files.image, files.annotation):
        if file is not None:
            try:
                state = os.stat(file)
            except OSError as error:  # such as a symbolic link to nowhere
                raise DataError(f"{file} cannot be read: {error}. Fetch it again.") from error
            relative = os.path.relpath(os.path.abspath(file), root)
            stamp += [relative, state.st_size, state.st_mtime_ns]
    return stamp


def _scanned(files: ImageFiles, entry: dict[str, Any]) -> ScannedImage:
    found = entry["instances"]
    instances = None if found is None else tuple(Instance(*fields) for fields in found)
    height, width = entry["size"]
    return ScannedImage(files, height, width, entry["digest"], instances)


def _read_cache(path: Path, key: dict[str, Any]) -> tuple[dict[str, dict[str, Any]], str]:
    """Returns the cached entries by image id, none if they cannot be used, and why for the log."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            content = json.load(file)
        if content["key"] != key:
            return {}, " (which was of another version)"
        entries = {entry["image_id"]: entry for entry in content["images"]}
        if not all(_is_entry(entry) for entry in entries.values()):
            raise ValueError("entries lack fields")
    except FileNotFoundError:
        return {}, ""
    except _DAMAGED as error:
        return {}, f" (which was damaged: {error})"
    return entries, ""


def _is_entry(entry: dict[str, Any]) -> bool:
    instances = entry["instances"]
    return (
        len(entry["size"]) == 2
        and isinstance(entry["digest"], str)
        and isinstance(entry["stamp"], list)
        and (instances is None or all(len(fields) == 4 for fields in instances))
    )


def _write_cache(path: Path, key: dict[str, Any], entries: list[dict[str, Any]]) -> str:
    """Writes the cache in one step; returns what to add to the log if that fails."""
    content = json.dumps({"key": key, "images": entries}, separators=(",", ":"))
    try:
        with atomic_write(path) as file, gzip.GzipFile("", "wb", 4, file, mtime=0) as packed:
            packed.write(content.encode())
    except OSError as error:
        return f" (which cannot be written: {error}; set MASK_RCNN_REPRO_CACHE to another folder)"
    return ""
