"""Finds the files of a split of Cityscapes and checks that they fit each other.

Layout below the root::

    leftImg8bit/{train,val,test}/CITY/CITY_SEQUENCE_FRAME_leftImg8bit.png
    gtFine/{train,val,test}/CITY/CITY_SEQUENCE_FRAME_gtFine_{instanceIds.png,polygons.json,...}

Nothing is opened here. The official ``gtFine/test`` holds dummy files without annotations. The test
split therefore always counts as not annotated.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from mask_rcnn_repro.errors import ConfigError, DataError

_logger = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
ANNOTATED_SPLITS = ("train", "val")

# Images of the official release with fine annotations.
OFFICIAL_SIZES = {"train": 2975, "val": 500, "test": 1525}

IMAGE_FOLDER, ANNOTATION_FOLDER = "leftImg8bit", "gtFine"
IMAGE_SUFFIX = "_leftImg8bit.png"
ANNOTATION_SUFFIXES = {
    "instance_ids": "_gtFine_instanceIds.png",
    "polygons": "_gtFine_polygons.json",
}


@dataclass(frozen=True)
class ImageFiles:
    """The files of one image.

    Attributes:
        image_id: The file names' common stem, such as `aachen_000000_000019`.
        annotation: The file that holds its instances. None on the test split.
        instance_ids: The ``instanceIds`` PNG if there is one. None on the test split.
    """

    image_id: str
    image: str
    annotation: str | None
    instance_ids: str | None


def has_instance_ids(root: str | os.PathLike[str], split: str) -> bool:
    """Returns whether a split has ``instanceIds`` PNGs. Data may come with polygons only."""
    pattern = f"*/*{ANNOTATION_SUFFIXES['instance_ids']}"
    return next((Path(root) / ANNOTATION_FOLDER / split).glob(pattern), None) is not None


def list_files(
    root: str | os.PathLike[str], split: str, masks: str, expected: int | None = None
) -> list[ImageFiles]:
    """Lists the images of a split with their annotation files, and reports what does not fit.

    Args:
        root: The folder that holds ``leftImg8bit`` and ``gtFine``.
        split: `"train"`, `"val"` or `"test"`.
        masks: Annotation file that each image needs, `"instance_ids"` or `"polygons"`.
        expected: Expected number of images. Another number is a warning. None: any.

    Returns:
        Sorted by city and image id.

    Raises:
        ConfigError: `split` or `masks` is unknown.
        DataError: Directory, images or annotations are missing, or an id occurs twice.
    """
    if split not in SPLITS:
        raise ConfigError(f"The split must be one of {', '.join(SPLITS)}; got {split!r}.")
    check_masks(masks)
    root = Path(root)
    folder = root / IMAGE_FOLDER / split
    annotated = split in ANNOTATED_SPLITS
    annotations = root / ANNOTATION_FOLDER / split
    for needed in (folder, annotations) if annotated else (folder,):
        if not needed.is_dir():
            nearest = next(parent for parent in needed.absolute().parents if parent.is_dir())
            raise DataError(
                f"The Cityscapes split {split!r} is not there: looked for the folder {needed} (the "
                f"nearest that exists is {nearest.resolve()}). {_fix(root)}"
            )
    images, strange = _by_stem(folder, IMAGE_SUFFIX)
    if not images:
        raise DataError(
            f"There are no images of the split {split!r} in {folder}: looked for CITY/*"
            f"{IMAGE_SUFFIX} and found {len(strange)} other files{_some(strange)}. {_fix(root)}"
        )
    if strange:
        _logger.warning(
            "%s: %d files are not named CITY_..%s and are omitted%s",
            *(folder, len(strange), IMAGE_SUFFIX, _some(strange)),
        )
    if expected is not None and len(images) != expected:
        _logger.warning(
            "Cityscapes %s below %s: expected %d images, found %d. Results on a part of the data "
            "cannot be compared with others'.",
            *(split, root, expected, len(images)),
        )
    if not annotated:
        return [ImageFiles(stem, str(path), None, None) for stem, path in images.items()]
    suffix, png = ANNOTATION_SUFFIXES[masks], ANNOTATION_SUFFIXES["instance_ids"]
    found, _ = _by_stem(annotations, suffix)
    _compare(images, found, suffix, folder, annotations)
    pngs = found if suffix == png else _by_stem(annotations, png)[0]
    return [
        ImageFiles(stem, str(path), str(found[stem]), str(pngs[stem]) if stem in pngs else None)
        for stem, path in images.items()
    ]


def check_masks(masks: str) -> None:
    """Raises a ConfigError unless masks come from `"instance_ids"` or `"polygons"`."""
    if masks not in ANNOTATION_SUFFIXES:
        raise ConfigError(
            "dataset.masks says where masks come from: 'instance_ids' (the instanceIds PNGs, as "
            "run lengths) or 'polygons' (the polygons json, as polygons of what is visible); got "
            f"{masks!r}."
        )


def _by_stem(folder: Path, suffix: str) -> tuple[dict[str, Path], list[str]]:
    """Returns the files CITY/STEM + suffix by stem, sorted, and other files that are not hidden."""
    stems: dict[str, Path] = {}
    strange = []
    for city in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if city.name.startswith("."):
            continue
        if not city.is_dir():
            strange.append(city.name)
            continue
        for name in sorted(os.listdir(city.path)):
            if name.startswith("."):
                continue
            if not name.endswith(suffix):
                strange.append(f"{city.name}/{name}")
                continue
            stem, path = name[: -len(suffix)], Path(city.path, name)
            if stem in stems:
                raise DataError(
                    f"The image id {stem!r} is a duplicate: {stems[stem]} and {path}; ids must "
                    "be unique in a split. Remove one of them."
                )
            stems[stem] = path
    return stems, strange


def _compare(
    images: dict[str, Path], found: dict[str, Path], suffix: str, folder: Path, annotations: Path
) -> None:
    """Reports images without annotations (an error) and the reverse (a warning)."""
    missing = [stem for stem in images if stem not in found]
    extra = [stem for stem in found if stem not in images]
    if missing:
        raise DataError(
            f"Expected an annotation *{suffix} in {annotations} for each of {len(images)} images "
            f"in {folder}; found {len(images) - len(missing)}, {len(missing)} are missing"
            f"{_some(missing)}; {len(extra)} annotations have no image{_some(extra)}. Fetch the "
            "missing files, or move the images without annotations away."
        )
    if extra:
        _logger.warning(
            "%s: expected %d images for as many annotations in %s, found %d; %d annotations have "
            "no image and are omitted%s",
            *(folder, len(found), annotations, len(images), len(extra), _some(extra)),
        )


def _some(names: list[str]) -> str:
    more = ", ..." if len(names) > 3 else ""
    return f" ({', '.join(names[:3])}{more})" if names else ""


def _fix(root: Path) -> str:
    given = os.environ.get("DETECTRON2_DATASETS")
    return (
        f"Expected below {root}: {IMAGE_FOLDER}/SPLIT/CITY/*{IMAGE_SUFFIX} and "
        f"{ANNOTATION_FOLDER}/SPLIT/CITY/*{ANNOTATION_SUFFIXES['instance_ids']}, "
        f"*{ANNOTATION_SUFFIXES['polygons']}. Data sets known by name are looked for below "
        f"DETECTRON2_DATASETS={given or '(not set: datasets)'}; datasets/README.md shows the "
        "expected tree."
    )
