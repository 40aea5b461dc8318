"""Writing pictures, of which one that fails costs no other result."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from mask_rcnn_repro.utils.atomic import atomic_write_bytes

logger = logging.getLogger(__name__)

_JPEG_QUALITY = 92


@contextmanager
def failure_logged(what: str) -> Iterator[None]:
    """Logs an error that is raised inside as a warning and continues after the block.

    An OSError is raised, because then nothing can be written.

    Args:
        what: What is drawn inside, for the warning.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        logger.warning("%s was not drawn: %s: %s", what, type(error).__name__, error)


def write_picture(path: Path, picture: np.ndarray) -> None:
    """Writes an (H, W, 3) uint8 RGB picture atomically, in the format of its suffix.

    Creates the directory.

    Raises:
        ValueError: The format cannot hold the picture, such as a JPEG of more than 65500 pixels.
    """
    suffix = path.suffix.lower()
    options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if suffix in (".jpg", ".jpeg") else []
    try:
        done, content = cv2.imencode(suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)
    except cv2.error as error:
        raise ValueError(f"OpenCV: {error}") from error
    if not done:
        raise ValueError(f"{suffix} cannot hold {picture.shape[1]} x {picture.shape[0]} pixels")
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_bytes(path, content.tobytes())
