"""Converts the nuclei of the 2018 Data Science Bowl (BBBC038, `stage1_train`) to COCO's format.

    python datasets/convert_nuclei.py stage1_train datasets/nuclei --max-side 320

The source has a folder per image, `<id>/images/<id>.png`, with one file per nucleus in
`<id>/masks/*.png`. The result is

    annotations/{train,val}.json    one class, `nucleus`; masks as compressed run lengths
    train/000001.png ...            8 bit, grey where the three channels are equal, without alpha
    val/001001.png ...

docs/real_data.md describes where the images are published and how they are trained on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

LICENSE = {
    "id": 1,
    "name": "CC0 1.0",
    "url": "https://creativecommons.org/publicdomain/zero/1.0/",
}
DESCRIPTION = "Nuclei of the 2018 Data Science Bowl (BBBC038), stage 1 training images; CC0 1.0"
FIRST_ANNOTATION = {"train": 1, "val": 10_000_001}
"""Ids of the first annotations. Those of images differ by a power of ten, too."""


class SourceError(Exception):
    """A source that cannot be converted. The message says what to do."""


def convert(
    source: Path,
    target: Path,
    *,
    val_share: float = 0.2,
    seed: int = 0,
    max_side: int | None = None,
) -> dict[str, dict[str, Any]]:
    """Converts a folder.

    Args:
        source: folder with a folder per image.
        target: folder to write; must not exist, or be empty.
        val_share: share of the images that become the val split, from 0 to 1 (both exclusive). It
            is rounded to a whole number of images, at least one in each split.
        seed: of the split; see :func:`split_ids`.
        max_side: longest side, in pixels, of the images that are kept; None for all.

    Returns:
        Split to the content of its json.

    Raises:
        SourceError: the source is no such folder, or an image or a mask cannot be used.
    """
    if not 0 < val_share < 1:
        raise SourceError(f"The share of val images must be between 0 and 1, got {val_share}.")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise SourceError(f"{target} exists already. Delete it, or name another folder.")
    folders = {f.name: f for f in sorted(source.glob("*")) if (f / "images").is_dir()}
    shapes = {name: read_image(folder).shape[:2] for name, folder in folders.items()}
    kept = [name for name, shape in shapes.items() if max_side is None or max(shape) <= max_side]
    if len(kept) < 2:
        raise SourceError(
            f"{source} holds {len(folders)} folders with images/, {len(kept)} of them with an "
            "image of that size; at least two are needed. Give the folder stage1_train itself."
        )
    written = {}
    first = 10 ** max(3, len(str(len(kept))))  # the same for any split of as many images
    for split, names in split_ids(kept, val_share, seed).items():
        (target / split).mkdir(parents=True)
        start = 1 if split == "train" else first + 1
        written[split] = _write_split(folders, names, target / split, split, start)
    (target / "annotations").mkdir()
    for split, content in written.items():
        (target / "annotations" / f"{split}.json").write_text(json.dumps(content))
    return written


def split_ids(names: Sequence[str], val_share: float, seed: int) -> dict[str, list[str]]:
    """Assigns images to splits.

    Images are ordered by the SHA-256 digest of `<seed>:<id>`, which no library can change, and
    the first of them are the val split.

    Args:
        names: ids of images, at least two.
        val_share, seed: as for :func:`convert`.

    Returns:
        `train` and `val` to ids in alphabetical order.
    """
    count = min(max(round(val_share * len(names)), 1), len(names) - 1)
    drawn = sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).hexdigest())
    return {"train": sorted(drawn[count:]), "val": sorted(drawn[:count])}


def read_image(folder: Path) -> np.ndarray:
    """The image of a folder: (H, W, 3) uint8 in BGR, or (H, W) where the channels are equal."""
    files = sorted((folder / "images").glob("*.png"))
    if len(files) != 1:
        raise SourceError(f"{folder / 'images'} must hold one .png file, it holds {len(files)}.")
    image = cv2.imread(str(files[0]), cv2.IMREAD_COLOR)
    if image is None:
        raise SourceError(f"{files[0]} is no image, or is damaged. Unpack the archive again.")
    blue, green, red = cv2.split(image)
    return blue if (blue == green).all() and (blue == red).all() else image


def read_masks(folder: Path, shape: tuple[int, int]) -> tuple[list[dict[str, Any]], int]:
    """The nuclei of a folder.

    Args:
        folder: of an image.
        shape: its height and width.

    Returns:
        `bbox`, `area` and `segmentation` of each nucleus, in the order of the files' names, and
        the number of masks without a pixel, which are omitted.
    """
    nuclei, empty = [], 0
    for file in sorted((folder / "masks").glob("*.png")):
        mask = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
        if mask is None:
            raise SourceError(f"{file} is no image, or is damaged. Unpack the archive again.")
        if mask.shape != shape:
            raise SourceError(
                f"{file} has {mask.shape[1]} x {mask.shape[0]} pixels, its image "
                f"{shape[1]} x {shape[0]}. Remove the image's folder, or correct the mask."
            )
        if not mask.any():
            empty += 1
            continue
        code = coco_mask.encode(np.asfortranarray(mask > 0, dtype=np.uint8))
        counts = {"size": [int(n) for n in code["size"]], "counts": code["counts"].decode()}
        box = [float(n) for n in coco_mask.toBbox(code)]
        area = int(coco_mask.area(code))
        nuclei.append({"bbox": box, "area": area, "iscrowd": 0, "segmentation": counts})
    return nuclei, empty


def _write_split(
    folders: dict[str, Path], names: Sequence[str], target: Path, split: str, start: int
) -> dict[str, Any]:
    images, annotations, empty = [], [], 0
    next_id = FIRST_ANNOTATION[split]
    for number, name in enumerate(names, start):
        image = read_image(folders[name])
        file = f"{number:06d}.png"
        if not cv2.imwrite(str(target / file), image):
            raise SourceError(f"{target / file} cannot be written. Is the disk full?")
        height, width = image.shape[:2]
        images.append({"id": number, "file_name": file, "height": height, "width": width})
        nuclei, without_pixels = read_masks(folders[name], (height, width))
        empty += without_pixels
        for nucleus in nuclei:
            annotations.append({"id": next_id, "image_id": number, "category_id": 1, **nucleus})
            next_id += 1
    omitted = f", {empty} masks without a pixel omitted" if empty else ""
    print(f"{split}: {len(images)} images, {len(annotations)} nuclei{omitted}")
    return {
        "info": {"description": DESCRIPTION},
        "licenses": [LICENSE],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "nucleus", "supercategory": "cell"}],
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Converts what the command line names; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("source", type=Path, help="folder stage1_train, with a folder per image")
    add("target", type=Path, help="folder to write")
    add("--val-share", type=float, default=0.2, metavar="F", help="share of val images")
    add("--seed", type=int, default=0, help="of the split")
    add("--max-side", type=int, metavar="PX", help="keep images whose sides are at most this long")
    args = vars(parser.parse_args(argv))
    try:
        convert(**args)
    except SourceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"Written to {args['target']}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
