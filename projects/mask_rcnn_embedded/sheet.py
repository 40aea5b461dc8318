"""Contact sheets: pictures of a data set in rows, plain or with their annotations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from mask_rcnn_embedded.errors import DataError

WIDTH = 1240
"""Width of a sheet in pixels."""

GAP = 4
"""White pixels between the pictures."""

ZOOM = 2
"""Enlargement of the pictures in which annotations are drawn."""


def put_name(canvas: np.ndarray, name: str, left: int, top: int, color: tuple[int, ...]) -> None:
    """Writes the name of an instance above its box, in place."""
    spot = (left + 1, max(9, top - 2))
    for shade, thickness in (((0, 0, 0), 2), (color, 1)):
        cv2.putText(
            canvas, name, spot, cv2.FONT_HERSHEY_SIMPLEX, 0.36, shade, thickness, cv2.LINE_AA
        )


def in_rows(images: Sequence[np.ndarray], height: int) -> np.ndarray:
    """Scales images to one height and places them in rows.

    Args:
        images: (H, W, 3) uint8 each; none gives a sheet of one white row of pixels.
        height: height of each image on the sheet in pixels.

    Returns:
        (rows, WIDTH, 3) uint8.
    """
    rows: list[list[np.ndarray]] = []
    used = WIDTH
    for image in images:
        width = round(image.shape[1] * height / image.shape[0])
        if used + width > WIDTH:
            rows.append([])
            used = 0
        rows[-1].append(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))
        used += width + GAP
    sheet = np.full((max(1, len(rows) * (height + GAP)), WIDTH, 3), 255, np.uint8)
    for k, row in enumerate(rows):
        left, top = 0, k * (height + GAP)
        for image in row:
            part = image[:, : max(0, WIDTH - left)]
            sheet[top : top + height, left : left + part.shape[1]] = part
            left += image.shape[1] + GAP
    return sheet


def write_image(path: str | Path, image: np.ndarray) -> Path:
    """Writes an image file, creating its directory.

    Raises:
        DataError: the file cannot be written, or its suffix is not that of an image.
    """
    path = Path(path)
    quality = [cv2.IMWRITE_JPEG_QUALITY, 85] if path.suffix.lower() in (".jpg", ".jpeg") else []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not cv2.imwrite(str(path), image, quality):
            raise OSError("the image was not written")
    except (OSError, cv2.error) as error:
        raise DataError(f"cannot write the sheet {path}: {error}. Use .png or .jpg.") from error
    return path
