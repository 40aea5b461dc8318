"""Writes the data set in Cityscapes' official layout and keeps one copy of it in the cache.

Layout below the root (CITY_SSSSSS_FFFFFF: city, sequence, frame)::

    leftImg8bit/{train,val,test}/CITY/CITY_SSSSSS_FFFFFF_leftImg8bit.png    8-bit RGB
    gtFine/{train,val}/CITY/CITY_SSSSSS_FFFFFF_gtFine_polygons.json
    gtFine/{train,val}/CITY/CITY_SSSSSS_FFFFFF_gtFine_instanceIds.png       uint16
    gtFine/{train,val}/CITY/CITY_SSSSSS_FFFFFF_gtFine_labelIds.png          uint8
    manifest.json: the spec, counts and SHA-256 of every file, written last

``test`` has no annotations. (The official one has dummies in which everything is ignored; nothing
needs them.) The id images are made from the polygons by ``cityscapesscripts`` itself.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
import sys
from pathlib import Path

import cv2
import numpy as np
from cityscapesscripts.preparation.json2instanceImg import createInstanceImage
from cityscapesscripts.preparation.json2labelImg import createLabelImage
from tqdm import tqdm

from mask_rcnn_embedded.cache import (
    default_workers,
    ensure_in_cache,
    parallel_results,
)
from mask_rcnn_embedded.cityscapes.scene import StreetScene, make_scene, to_annotation
from mask_rcnn_embedded.cityscapes.spec import SPLITS, CityscapesSpec
from mask_rcnn_embedded.coco.generate import embedded_root
from mask_rcnn_embedded.errors import DataError

MANIFEST = "manifest.json"

_IMAGES_PER_WORKER = 60

_WHAT = "the embedded Cityscapes data set"


def image_rng(spec: CityscapesSpec, split: str, index: int) -> np.random.Generator:
    """The generator from which picture ``index`` (from 0) of a split draws everything."""
    return np.random.default_rng(np.random.SeedSequence([spec.seed, SPLITS.index(split), index]))


def render(spec: CityscapesSpec, split: str, index: int) -> StreetScene:
    """One picture with its polygons."""
    return make_scene(image_rng(spec, split, index), spec, index)


def file_names(spec: CityscapesSpec, split: str, index: int) -> dict[str, str]:
    """Files of a picture by kind, relative to the root: ``image`` and, but for ``test``,
    ``polygons``, ``instanceIds`` and ``labelIds``."""
    stem = spec.stem(split, index)
    city = stem.split("_")[0]
    names = {"image": f"leftImg8bit/{split}/{city}/{stem}_leftImg8bit.png"}
    if split != "test":
        for kind, suffix in (("polygons", "json"), ("instanceIds", "png"), ("labelIds", "png")):
            names[kind] = f"gtFine/{split}/{city}/{stem}_gtFine_{kind}.{suffix}"
    return names


def _annotation_files(scene: StreetScene) -> dict[str, bytes]:
    """Content of the annotation files by kind."""
    height, width = scene.image.shape[:2]
    annotation = to_annotation(scene.objects, width, height)
    content = {"imgHeight": height, "imgWidth": width, "objects": scene.objects}
    files = {"polygons": json.dumps(content, separators=(",", ":")).encode()}
    for kind, make in (("instanceIds", createInstanceImage), ("labelIds", createLabelImage)):
        buffer = io.BytesIO()
        make(annotation, "ids").save(buffer, "png")
        files[kind] = buffer.getvalue()
    return files


def _write_image(task: tuple[str, int], root: str, spec: CityscapesSpec) -> dict[str, str]:
    """Makes and writes the files of one picture; returns their SHA-256 by name."""
    split, index = task
    scene = render(spec, split, index)
    _, encoded = cv2.imencode(".png", scene.image, [cv2.IMWRITE_PNG_COMPRESSION, 3])
    files = {"image": encoded.tobytes()}
    if split != "test":
        files.update(_annotation_files(scene))
    sums = {}
    for kind, name in file_names(spec, split, index).items():
        (Path(root) / name).write_bytes(files[kind])
        sums[name] = hashlib.sha256(files[kind]).hexdigest()
    return sums


def _tasks(spec: CityscapesSpec) -> list[tuple[str, int]]:
    return [(split, index) for split in SPLITS for index in range(spec.num_images(split))]


def generate(root: str | Path, spec: CityscapesSpec, num_workers: int | None = None) -> Path:
    """Writes a data set below ``root``, which must be empty or absent.

    The bytes depend on the spec alone, not on the number of processes. (Other versions of numpy,
    OpenCV or Pillow may round or compress differently; ``manifest.json`` holds the SHA-256 of what
    was written.)

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
    tasks = _tasks(spec)
    try:
        if root.exists() and any(root.iterdir()):
            raise DataError(f"{root} is not empty; give a new folder for {_WHAT}")
        names = [name for task in tasks for name in file_names(spec, *task).values()]
        for folder in sorted({(root / name).parent for name in names}):
            folder.mkdir(parents=True, exist_ok=True)
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot write {_WHAT} to {root}: {error}") from error
    workers = default_workers(len(tasks), _IMAGES_PER_WORKER)
    workers = workers if num_workers is None else max(1, num_workers)
    work = functools.partial(_write_image, root=str(root), spec=spec)
    sums: dict[str, str] = {}
    for result in tqdm(
        parallel_results(work, tasks, workers),
        total=len(tasks),
        desc=f"embedded data ({spec.name})",
        unit="img",
        mininterval=0.3 if sys.stderr.isatty() else 5.0,
    ):
        sums.update(result)
    manifest = {
        "fingerprint": spec.fingerprint(),
        "spec": dataclasses.asdict(spec),
        "images": {split: spec.num_images(split) for split in SPLITS},
        "sha256": sums,
    }
    (root / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    return root


def is_complete(root: Path, spec: CityscapesSpec) -> bool:
    """Whether ``root`` holds the whole data set of ``spec``: the manifest and all its files."""
    try:
        manifest = json.loads((root / MANIFEST).read_text())
        if manifest["fingerprint"] != spec.fingerprint():
            return False
        return all((root / name).is_file() for name in manifest["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def ensure_generated(spec: CityscapesSpec, num_workers: int | None = None) -> Path:
    """The folder of a data set in the cache, generated if it is not there yet.

    Safe against other processes doing the same and against being killed: the data set is made in a
    folder beside and moved into place as a whole.

    Args:
        spec: which data set.
        num_workers: as in :func:`generate`.

    Returns:
        ``embedded_root() / "<name>-<fingerprint>"``, which holds ``leftImg8bit`` and ``gtFine``.

    Raises:
        DataError: the cache cannot be written.
    """
    return ensure_in_cache(
        embedded_root() / f"{spec.name}-{spec.fingerprint()}",
        what=_WHAT,
        generate=lambda root: generate(root, spec, num_workers),
        is_complete=lambda root: is_complete(root, spec),
    )
