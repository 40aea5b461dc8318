"""Maps each data set name to its files and finds the release that is installed.

The root is ``DETECTRON2_DATASETS`` (default ``datasets``). It is read whenever files are
searched. Importing this module opens nothing and needs no directory.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mask_rcnn_repro.data.coco.categories import Categories, parse_categories
from mask_rcnn_repro.errors import DataError

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """One annotation file and the directory of its images."""

    json_file: str
    image_root: str


@dataclass(frozen=True)
class Source:
    """The files of one release of a data set, all of which are needed."""

    label: str
    parts: tuple[Part, ...]


def datasets_root() -> Path:
    """Returns the folder below which real data sets are looked for."""
    return Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser()


def _coco(year: str, *parts: tuple[str, str]) -> Source:
    return Source(
        f"COCO {year} files",
        tuple(Part(f"coco/annotations/{json}.json", f"coco/{images}") for json, images in parts),
    )


def _paper_splits(kind: str) -> dict[str, tuple[Source, ...]]:
    """The paper's splits of COCO 2014; COCO 2017 has the same images in other files."""
    return {
        "trainval35k": (
            _coco("2017", (f"{kind}_train2017", "train2017")),
            _coco(
                "2014",
                (f"{kind}_train2014", "train2014"),
                (f"{kind}_valminusminival2014", "val2014"),
            ),
        ),
        "minival": (
            _coco("2017", (f"{kind}_val2017", "val2017")),
            _coco("2014", (f"{kind}_minival2014", "val2014")),
        ),
        "test_dev": (
            _coco("2017", ("image_info_test-dev2017", "test2017")),
            _coco("2015", ("image_info_test-dev2015", "test2015")),
        ),
    }


# Real data sets of ours: name -> alternatives, the preferred one first. Detectron2 registers
# coco_2014_*, coco_2017_* and keypoints_coco_* itself.
COCO_SOURCES: Mapping[str, tuple[Source, ...]] = {
    **{f"coco_{split}": sources for split, sources in _paper_splits("instances").items()},
    "coco_2017_unlabeled": (_coco("2017", ("image_info_unlabeled2017", "unlabeled2017")),),
}
COCO_PERSON_SOURCES: Mapping[str, tuple[Source, ...]] = {
    f"keypoints_coco_{split}": sources
    for split, sources in _paper_splits("person_keypoints").items()
}


def _embedded(infix: str, kind: str) -> dict[str, tuple[str, str, str, str]]:
    files = {"train": f"{kind}_train", "val": f"{kind}_val", "unlabeled": "image_info_unlabeled"}
    return {
        f"{prefix}{part}{infix}_{split}": (generator, spec, json, split)
        for part, generator in (("_coco", "coco"), ("", "quickstart"))
        for prefix, spec in (("embedded", "FULL_SPEC"), ("embedded_tiny", "TINY_SPEC"))
        for split, json in files.items()
    }


# Embedded data sets: name -> (generator, name of its spec, annotation file, folder).
EMBEDDED: Mapping[str, tuple[str, str, str, str]] = _embedded("", "instances")
EMBEDDED_PERSON: Mapping[str, tuple[str, str, str, str]] = _embedded("_person", "person_keypoints")

# Crops for pre-training: name -> (name of the generator's spec, split).
EMBEDDED_CROPS: Mapping[str, tuple[str, str]] = {
    f"embedded{tiny}{many}_crops_{split}": (spec, split)
    for tiny, many, spec in (
        ("", "", "FULL_SPEC"),
        ("", "_many", "MANY_SPEC"),
        ("_tiny", "", "TINY_SPEC"),
        ("_tiny", "_many", "TINY_MANY_SPEC"),
    )
    for split in ("train", "val")
}


def find_parts(name: str) -> tuple[Part, ...]:
    """Returns the files of one of our data sets, with full paths.

    Embedded data is generated on the first call. For real data, the first release is used whose
    annotation files and image directories all exist.

    Raises:
        DataError: Files are missing. The message lists every path that was searched.
    """
    embedded = {**EMBEDDED, **EMBEDDED_PERSON}.get(name)
    if embedded is not None:
        generator, spec, json, folder = embedded
        root = generated_root(generator, spec)
        return (Part(str(root / "annotations" / f"{json}.json"), str(root / folder)),)
    return _find_real(name, {**COCO_SOURCES, **COCO_PERSON_SOURCES}[name])


def spec_fingerprint(name: str) -> str | None:
    """Returns what identifies generated COCO-format data without making it; None for other data."""
    embedded = {**EMBEDDED, **EMBEDDED_PERSON}.get(name)
    if embedded is None:
        return None
    generator, spec, json, _ = embedded
    module: Any = importlib.import_module(f"mask_rcnn_embedded.{generator}")
    return f"{getattr(module, spec).fingerprint()}/{json}"


def embedded_categories(name: str) -> Categories | None:
    """Returns the classes of generated COCO-format data without making it; None for other data."""
    if name not in EMBEDDED:
        return None
    generator = EMBEDDED[name][0]
    module: Any = importlib.import_module(f"mask_rcnn_embedded.{generator}")
    return parse_categories(list(map(dict, module.CATEGORIES)), f"mask_rcnn_embedded.{generator}")


def generated_root(generator: str, spec_name: str) -> Path:
    """Returns the folder that `mask_rcnn_embedded`'s generator fills, unless it is filled."""
    module: Any = importlib.import_module(f"mask_rcnn_embedded.{generator}")
    return Path(module.ensure_generated(getattr(module, spec_name)))


def _find_real(name: str, sources: tuple[Source, ...]) -> tuple[Part, ...]:
    root = datasets_root()
    complete: list[tuple[Source, tuple[Part, ...]]] = []
    looked_for: list[str] = []
    for source in sources:
        parts = tuple(Part(str(root / p.json_file), str(root / p.image_root)) for p in source.parts)
        paths = [path for part in parts for path in (part.json_file, part.image_root)]
        there = [os.path.exists(path) for path in paths]
        if all(there):
            complete.append((source, parts))
        for path, found in zip(paths, there, strict=True):
            looked_for.append(f"  {source.label}: {path} ({'there' if found else 'missing'})")
    if not complete:
        given = os.environ.get("DETECTRON2_DATASETS")
        raise DataError(
            f"The data set {name!r} is not there. Looked for:\n"
            + "\n".join(looked_for)
            + f"\nThe root is DETECTRON2_DATASETS={given or '(not set: datasets)'}. All files of a "
            "release are needed. datasets/README.md shows where to get them and the expected tree."
        )
    chosen, parts = complete[0]
    if len(sources) > 1:
        also = f", preferred to the {complete[1][0].label}" if len(complete) > 1 else ""
        _logger.info("%s: using the %s below %s%s", name, chosen.label, root, also)
    return parts
