"""Writing pictures."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from mask_rcnn_repro.utils.atomic import atomic_write_bytes

_JPEG_QUALITY = 92


def write_picture(path: Path, picture: np.ndarray) -> None:
    """Writes an (H, W, 3) uint8 RGB picture atomically, in the format of its suffix.

    Creates the directory.
    """
    suffix = path.suffix.lower()
    options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if suffix in (".jpg", ".jpeg") else []
    _, content = cv2.imencode(suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_bytes(path, content.tobytes())
