"""Reads an image, and reports a broken one with its file and image id."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Mapping
from typing import Any

import numpy as np
from detectron2.data import detection_utils
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import log_first_n
from PIL import Image

from mask_rcnn_repro.data.coco.fields import backslash_hint
from mask_rcnn_repro.data.deep_images import channel_bits, deep_values, to_eight_bits
from mask_rcnn_repro.errors import DataError

PLAIN_MODES = frozenset({"RGB", "L"})
"""Modes of Pillow that are read without loss. Others are converted."""

LARGEST_FILE = 1 << 30
"""Bytes; larger files are refused, as are images of over 179 million pixels (set by Pillow)."""

_ORIENTATION = 0x0112


def read_image(record: Mapping[str, Any], image_format: str) -> np.ndarray:
    """Reads the image of a data set dict and checks its size against the dict.

    The size is compared before anything is decoded. A small file with a huge stated size takes no
    memory unless the annotations state it, too. Images of 16 bits are scaled from `image_bits`.

    Args:
        record: With ``file_name`` and, where known, ``image_id``, ``height``, ``width`` and
            ``image_bits``, the bits that 16-bit images of its data set use (default 16: the upper
            8 bits remain). A file that states fewer itself, as TIFF may, has the last word.
        image_format: ``"BGR"``, ``"RGB"`` or another that Detectron2's ``read_image`` takes.

    Returns:
        An array (H, W, C), uint8 in [0, 255], with its EXIF orientation applied.

    Raises:
        DataError: The file is missing, truncated, no image, too large, of unknown range or of
            another size.
    """
    file = record["file_name"]
    which = f"Image {record.get('image_id', '(without id)')}, file {file},"
    try:
        image = _read(record, image_format, which)
    except FileNotFoundError:
        folder = os.path.dirname(file)
        state = "exists" if os.path.isdir(folder) else "does not exist either"
        raise DataError(
            f"{which} is missing (its folder {state}). The annotations list it: fetch it again, or "
            f"remove its record from the json.{backslash_hint(file)}"
        ) from None
    except (MemoryError, DataError):
        raise
    except Image.DecompressionBombError as error:
        raise DataError(
            f"{which} is too large: {error} Reduce or cut it; or, if its origin is trusted, raise "
            "PIL.Image.MAX_IMAGE_PIXELS in the config file."
        ) from None
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        raise DataError(
            f"{which} cannot be decoded: {type(error).__name__}: {error}. It is truncated, damaged "
            "or no image; fetch it again, or remove its record from the json."
        ) from error
    _check_size(record, image.shape[:2], which)
    return image


def _check_size(
    record: Mapping[str, Any], size: tuple[int, ...], which: str, turned: bool = False
) -> None:
    """Compares height and width with the annotated ones; `turned`: in either order."""
    height, width = size
    annotated = record.get("height", height), record.get("width", width)
    if (height, width) == annotated or (turned and (width, height) == annotated):
        return
    hint = ""
    if (width, height) == annotated:
        hint = " (If EXIF turns it, the annotations may be of the image as stored in the file.)"
    raise DataError(
        f"{which} is {height} x {width} (height x width), but is annotated as {annotated[0]} x "
        f"{annotated[1]}. Boxes and masks would be wrong: use the image that was annotated, or "
        f"fix 'height' and 'width' in the json.{hint}"
    )


def _read(record: Mapping[str, Any], image_format: str, which: str) -> np.ndarray:
    """Reads an image as Detectron2 does, and also 16-bit images."""
    file = record["file_name"]
    if os.path.exists(file):  # others are for the path manager, which knows addresses
        state = os.stat(file)
        if not stat.S_ISREG(state.st_mode):  # a pipe or a device would be read for ever
            raise DataError(f"{which} is a folder, pipe or device, not a file. Fix the json.")
        if state.st_size > LARGEST_FILE:
            raise DataError(
                f"{which} has {state.st_size} bytes; more than {LARGEST_FILE} are refused. Write "
                "it in a compressed format, or cut it."
            )
    with PathManager.open(file, "rb") as opened:
        picture: Image.Image = Image.open(opened)
        stored = channel_bits(picture)  # first, as reading EXIF may decode
        _check_size(record, (picture.height, picture.width), which, turned=_on_its_side(picture))
        if picture.mode in ("I", "F") and stored == 8:
            raise DataError(
                f"{which} has pixels of 32 bits (mode {picture.mode}), whose range is not known. "
                "Convert it to 8 bits a channel."
            )
        if stored > 8:
            values = deep_values(picture, opened)
            bits = stored if stored < 16 else record.get("image_bits") or 16
            _warn_of_range(int(values.max(initial=0)), bits, which)
            picture = Image.fromarray(to_eight_bits(values, bits))
        else:
            picture.load()  # newer Pillow turns TIFF as it loads; unloaded, it would turn twice
            picture = detection_utils._apply_exif_orientation(picture)
        return detection_utils.convert_PIL_to_numpy(picture, image_format)


def _warn_of_range(largest: int, bits: int, which: str) -> None:
    if largest >= 1 << bits:
        fault = "values above it are white"
    elif largest < 1 << (bits - 4):
        fault = f"its largest value is {largest}, so it is nearly black"
    else:
        return
    log_first_n(
        logging.WARNING,
        f"{which} is scaled from {bits} bits (dataset.image_bits), and {fault}. Others are not "
        "reported.",
        key="caller",
    )


def _on_its_side(picture: Image.Image) -> bool:
    """Returns whether EXIF rotates by 90 degrees. Broken EXIF is ignored, as in Detectron2."""
    try:
        return picture.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
    except Exception:
        return False
