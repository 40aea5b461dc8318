"""Writes the data set to disk and keeps one copy of it in a cache.

Layout below the root::

    {train,val,unlabeled}/000000000001.jpg (a tenth of them .png)
    annotations/instances_{train,val}.json, person_keypoints_{train,val}.json
    annotations/image_info_unlabeled.json
    manifest.json: the spec, counts and SHA-256 of everything, written last
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from mask_rcnn_embedded.cache import (
    default_workers,
    ensure_in_cache,
    parallel_results,
)
from mask_rcnn_embedded.cache import file_lock as _lock
from mask_rcnn_embedded.coco.annotate import annotate
from mask_rcnn_embedded.coco.scene import Scene, make_scene
from mask_rcnn_embedded.coco.spec import (
    CATEGORIES,
    IDS_PER_SPLIT,
    SPLITS,
    EmbeddedSpec,
)
from mask_rcnn_embedded.drawing.keypoints import KEYPOINT_NAMES, SKELETON
from mask_rcnn_embedded.errors import DataError

MANIFEST = "manifest.json"

_LICENSES = [
    {"id": 1, "name": "CC0 1.0", "url": "https://creativecommons.org/publicdomain/zero/1.0/"}
]


def image_rng(spec: EmbeddedSpec, split: str, index: int) -> np.random.Generator:
    """The generator from which image ``index`` (from 0) of a split draws everything."""
    return np.random.default_rng(np.random.SeedSequence([spec.seed, SPLITS.index(split), index]))


def render(spec: EmbeddedSpec, split: str, index: int) -> tuple[Scene, np.random.Generator]:
    """One scene and its generator, which afterwards decides on the file format."""
    rng = image_rng(spec, split, index)
    return make_scene(rng, spec), rng


def _write_image(task: tuple[str, int], root: str, spec: EmbeddedSpec) -> dict[str, Any]:
    """Makes and writes one image; returns its COCO entry, annotations and SHA-256."""
    split, index = task
    scene, rng = render(spec, split, index)
    image_id = SPLITS.index(split) * IDS_PER_SPLIT + index + 1
    if rng.random() < spec.png_fraction:
        suffix, options = ".png", [cv2.IMWRITE_PNG_COMPRESSION, 3]
    else:
        suffix, options = ".jpg", [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(72, 96))]
    _, encoded = cv2.imencode(suffix, scene.image, options)
    data = encoded.tobytes()
    name = f"{image_id:012d}{suffix}"
    with open(os.path.join(root, split, name), "wb") as file:
        file.write(data)
    height, width = scene.image.shape[:2]
    entry = {"id": image_id, "file_name": name, "width": width, "height": height, "license": 1}
    return {
        "image": entry,
        "annotations": [] if split == "unlabeled" else annotate(scene),
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def _split_json(
    spec: EmbeddedSpec, split: str, results: list[dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """The annotation files of a split by file name."""
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
    categories = [dict(c) for c in CATEGORIES]
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


def generate(root: str | Path, spec: EmbeddedSpec, num_workers: int | None = None) -> Path:
    """Writes a data set below ``root``, which must be empty or absent.

    The bytes depend on the spec alone, not on the number of processes. (Another version of numpy
    or OpenCV may round differently; ``manifest.json`` holds the SHA-256 of what was written.)

    Args:
        root: folder to fill.
        spec: what to generate.
        num_workers: processes; None chooses by the number of cores, 1 stays in this process.

    Returns:
        ``root`` as an absolute path.

    Raises:
        DataError: ``root`` holds something already or cannot be written.
    """
    root = Path(root).expanduser().resolve()
    try:
        if root.exists() and any(root.iterdir()):
            raise DataError(f"{root} is not empty; give a new folder for the embedded data set")
        for folder in (*SPLITS, "annotations"):
            (root / folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot write the embedded data set to {root}: {error}") from error
    tasks = [(split, index) for split in SPLITS for index in range(spec.num_images(split))]
    workers = default_workers(len(tasks)) if num_workers is None else max(1, num_workers)
    work = functools.partial(_write_image, root=str(root), spec=spec)
    interval = 0.3 if sys.stderr.isatty() else 5.0
    bar = tqdm(
        parallel_results(work, tasks, workers),
        total=len(tasks),
        desc=f"embedded data ({spec.name})",
        unit="img",
        mininterval=interval,
    )
    results = list(bar)
    files: dict[str, str] = {}
    images: dict[str, str] = {}
    position = 0
    for split in SPLITS:
        part = results[position : position + spec.num_images(split)]
        position += len(part)
        joined = "".join(r["sha256"] for r in part)
        images[split] = hashlib.sha256(joined.encode()).hexdigest()
        for name, content in _split_json(spec, split, part).items():
            data = json.dumps(content, separators=(",", ":")).encode()
            (root / "annotations" / name).write_bytes(data)
            files[name] = hashlib.sha256(data).hexdigest()
    manifest = {
        "fingerprint": spec.fingerprint(),
        "spec": dataclasses.asdict(spec),
        "images": {split: spec.num_images(split) for split in SPLITS},
        "sha256": {"images": images, "annotations": files},
    }
    (root / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    return root


def embedded_root() -> Path:
    """Folder of the cached data sets.

    ``$MASK_RCNN_REPRO_CACHE`` if set; else ``datasets/embedded`` of the checkout that this package
    is imported from; else ``~/.cache/mask_rcnn_repro/embedded``.
    """
    chosen = os.environ.get("MASK_RCNN_REPRO_CACHE")
    if chosen:
        return Path(chosen).expanduser().resolve()
    checkout = Path(__file__).resolve().parents[3]
    marks = ("configs", "datasets", "train_net.py")
    if all((checkout / mark).exists() for mark in marks):
        return checkout / "datasets" / "embedded"
    return Path.home() / ".cache" / "mask_rcnn_repro" / "embedded"


def is_complete(root: Path, spec: EmbeddedSpec) -> bool:
    """Whether ``root`` holds the whole data set of ``spec``: manifest, json and image counts."""
    try:
        manifest = json.loads((root / MANIFEST).read_text())
        if manifest["fingerprint"] != spec.fingerprint():
            return False
        names = manifest["sha256"]["annotations"]
        return all((root / "annotations" / name).is_file() for name in names) and all(
            len(os.listdir(root / split)) >= spec.num_images(split) for split in SPLITS
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def ensure_generated(spec: EmbeddedSpec, num_workers: int | None = None) -> Path:
    """The folder of a data set in the cache, generated if it is not there yet.

    Safe against other processes doing the same and against being killed: the data set is made in a
    folder beside and moved into place as a whole.

    Args:
        spec: which data set.
        num_workers: as in :func:`generate`.

    Returns:
        ``embedded_root() / "<name>-<fingerprint>"``.

    Raises:
        DataError: the cache cannot be written.
    """
    return ensure_in_cache(
        embedded_root() / f"{spec.name}-{spec.fingerprint()}",
        what="the embedded data set",
        generate=lambda root: generate(root, spec, num_workers),
        is_complete=lambda root: is_complete(root, spec),
        lock=_lock,
    )
