"""Files of generated annotations: COCO json whose "info" says which model annotated which images.

:mod:`mask_rcnn_repro.distillation` writes them, `mixed_dataset.py` reads them for training.
Other annotations in COCO format can be used, too. Their "info" has no such facts.
"""

from __future__ import annotations

import hashlib
import json as json_module
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mask_rcnn_repro.data.catalog import COCO_SOURCES, EMBEDDED, EMBEDDED_PERSON
from mask_rcnn_repro.data.coco.file import coco_file
from mask_rcnn_repro.errors import ConfigError, DataError

DISTILLED_FOLDER = "distilled"
"""In the directory of the teacher's run. Holds one directory per set of images."""

GENERATED_FILE = "generated.json"

_LONGEST_INFO = 1 << 20


@dataclass(frozen=True)
class GeneratedSource:
    """What the "info" of generated annotations states about their images.

    Attributes:
        name: Data set of the images. None if the file does not state it.
        json: Image list of the user's own data set.
        image_root: Directory of its images.
    """

    name: str | None = None
    json: str | None = None
    image_root: str | None = None


def generated_source(file: str | os.PathLike[str]) -> GeneratedSource:
    """Reads where the images are, without the annotations. Errors: see :func:`read_info`."""
    images = distillation_info(file).get("unlabeled")
    if not isinstance(images, dict):
        return GeneratedSource()
    values = {key: images.get(key) for key in ("name", "json", "image_root")}
    return GeneratedSource(**{k: v for k, v in values.items() if isinstance(v, str)})


def distillation_info(file: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the "distillation" of a file's "info" or {}. Errors: see :func:`read_info`."""
    found = read_info(file).get("distillation")
    return found if isinstance(found, dict) else {}


def read_info(file: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the "info" of a COCO json file, quickly if it is at the beginning.

    Raises:
        DataError: The file is missing or is not json.
    """
    path = os.fspath(file)
    try:
        with open(path, encoding="utf-8") as stream:
            head = stream.read(_LONGEST_INFO)
        start = head.index('"info"')
        if head[:start].strip() == "{":
            begin = head.index("{", start)
            info, _ = json_module.JSONDecoder().raw_decode(head[begin:])
            return dict(info)
    except (OSError, ValueError, RecursionError):
        pass  # the slow way says what is wrong
    info = coco_file(path).content.get("info")
    return info if isinstance(info, dict) else {}


def generated_facts(file: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns what identifies generated annotations, as a record says it of a data set.

    The "info" is no part of the fingerprint: it names the file of the teacher's weights and, of a
    user's images, their folder, which may differ where the annotations are the same.

    Returns:
        ``name`` (of the images' data set, or of the file), ``fingerprint`` ("sha256:..." of
        categories, images and annotations), ``images`` and ``instances``.

    Raises:
        DataError: The file is missing or is not in COCO format.
    """
    path = os.fspath(file)
    content = coco_file(path).content
    digest = hashlib.sha256()
    for key in ("categories", "images", "annotations"):
        rows = content.get(key, [])
        if not isinstance(rows, list):
            raise DataError(f"{path} is not in COCO format: {key!r} must be a list.")
        digest.update(f"{key}\n".encode())
        for row in rows:  # not in one piece, which may be as large as the file
            digest.update(json_module.dumps(row, sort_keys=True).encode() + b"\n")
    return {
        "name": generated_source(path).name or Path(path).name,
        "fingerprint": f"sha256:{digest.hexdigest()}",
        "images": len(content.get("images", [])),
        "instances": len(content.get("annotations", [])),
    }


def default_unlabeled(labeled: str) -> str:
    """Returns the unlabeled images of a labeled data set. Raises ConfigError without any."""
    name = None
    if labeled in EMBEDDED or labeled in EMBEDDED_PERSON:
        name = f"{labeled.rpartition('_')[0]}_unlabeled"
    elif labeled.startswith(("coco_", "keypoints_coco_")):
        name = "coco_2017_unlabeled"
    if name not in {*COCO_SOURCES, *EMBEDDED, *EMBEDDED_PERSON}:
        raise ConfigError(
            f"No unlabeled images are known that belong to the training data {labeled!r}. Name "
            "them: for tools/distill.py with --unlabeled (and, if they are your own, "
            "--unlabeled-json and --unlabeled-images), in a config that has a teacher with "
            "dataloader.train.dataset.unlabeled."
        )
    return str(name)
