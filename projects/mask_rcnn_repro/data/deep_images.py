"""Reads images of more than 8 bits per channel as 8 bits.

Many cameras use fewer bits than the file can hold: CT and thermal images use 12 of 16. Their upper
8 of 16 bits are nearly black. A data set therefore has one number of used bits for all images.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import IO

import numpy as np
from detectron2.data import detection_utils
from detectron2.utils.file_io import PathManager
from PIL import Image

SAMPLE = 32
"""Number of images that are opened to find the used bits of a data set."""

_USED = (8, 10, 12, 14, 16)
_GREY = ("I;16", "I;16L", "I;16B", "I;16N")
_BITS_PER_SAMPLE = 258  # TIFF


def channel_bits(picture: Image.Image) -> int:
    """Returns the bits per channel that an opened file states: 8 to 16 (TIFF may have 12)."""
    if picture.mode in _GREY or (picture.mode, picture.format) == ("I", "PNG"):
        return int(getattr(picture, "tag_v2", {}).get(_BITS_PER_SAMPLE, (16,))[0])
    # Pillow itself reads colored images of 16 bits as their upper 8
    return 16 if any(";16" in str(tile[3]) for tile in getattr(picture, "tile", ())) else 8


def deep_values(picture: Image.Image, stream: IO[bytes]) -> np.ndarray:
    """Decodes an image of more than 8 bits per channel and applies its EXIF orientation.

    Args:
        picture: An opened picture that is not loaded.
        stream: Its file.

    Returns:
        (H, W) or, in RGB order, (H, W, 3); uint16 as stored.
    """
    if picture.mode in (*_GREY, "I"):
        picture.load()  # newer Pillow turns TIFF as it loads; unloaded, it would be turned twice
        return np.asarray(detection_utils._apply_exif_orientation(picture)).astype(np.uint16)
    import cv2

    stream.seek(0)
    content = np.frombuffer(stream.read(), np.uint8)
    values = cv2.imdecode(content, cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR)
    if values is None:
        raise ValueError("OpenCV cannot decode it")
    return values[:, :, ::-1]


def to_eight_bits(values: np.ndarray, bits: int) -> np.ndarray:
    """Maps [0, 2**bits) to [0, 256), rounded down; larger values become 255. `bits`: 8 to 16."""
    return (np.minimum(values, (1 << bits) - 1) >> (bits - 8)).astype(np.uint8)


def used_bits(files: Iterable[str]) -> int | None:
    """Returns how many low bits the values of a sample of 16-bit images need.

    Args:
        files: All images of a data set. :data:`SAMPLE` of them are opened, evenly spaced.

    Returns:
        8, 10, 12, 14 or 16. None if no opened image has 16 bits; unreadable ones are skipped.
    """
    names = [name for name in files if not name.lower().endswith((".jpg", ".jpeg"))]
    largest = -1
    for name in names[:: max(1, -(-len(names) // SAMPLE))]:
        try:
            with PathManager.open(name, "rb") as stream, Image.open(stream) as picture:
                if channel_bits(picture) == 16:
                    largest = max(largest, int(deep_values(picture, stream).max()))
        except Exception:  # as many kinds as there are decoders; the reader reports it
            continue
    return None if largest < 0 else next(bits for bits in _USED if largest < 1 << bits)
