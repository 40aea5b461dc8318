"""Contact sheets of pictures."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from mask_rcnn_tools.drawing.labels import with_caption

_GAP = 6
_LETTERS = 12
_HIGHEST = 3  # of a picture on a sheet, relative to its width


def contact_sheet(
    pictures: Sequence[np.ndarray],
    captions: Sequence[str] = (),
    width: int = 1920,
    columns: int = 0,
) -> np.ndarray:
    """Arranges pictures in rows.

    Args:
        pictures: At least one (H, W, 3) uint8 RGB picture, of any size.
        captions: One caption per picture, or none.
        width: Width of the sheet in pixels.
        columns: Pictures per row; 0 chooses about as many as rows, each at least 380 pixels wide.

    Returns:
        (H', width, 3) uint8 RGB. All pictures have the same width.
    """
    columns = columns or max(
        1, min(len(pictures), round(len(pictures) ** 0.5 + 0.49), width // 380)
    )
    each = (width - _GAP * (columns + 1)) // columns
    tiles = [_to_width(picture, each) for picture in pictures]
    if captions:
        tiles = [
            with_caption(tile, [caption], _LETTERS)
            for tile, caption in zip(tiles, captions, strict=True)
        ]
    rows = []
    for start in range(0, len(pictures), columns):
        scaled = tiles[start : start + columns]
        height = max(p.shape[0] for p in scaled)
        row = np.full((height + _GAP, width, 3), 255, np.uint8)
        for number, picture in enumerate(scaled):
            left = _GAP + number * (each + _GAP)
            row[: picture.shape[0], left : left + each] = picture
        rows.append(row)
    return np.concatenate([np.full((_GAP, width, 3), 255, np.uint8), *rows])


def side_by_side(pictures: Sequence[np.ndarray], gap: int) -> np.ndarray:
    """Joins (H, W, 3) pictures of any size in a row, `gap` white pixels apart, bottoms aligned."""
    height = max(picture.shape[0] for picture in pictures)
    padded = [
        np.pad(
            picture,
            ((height - picture.shape[0], 0), (gap if number else 0, 0), (0, 0)),
            constant_values=255,
        )
        for number, picture in enumerate(pictures)
    ]
    return np.concatenate(padded, axis=1)


def _to_width(picture: np.ndarray, width: int) -> np.ndarray:
    """Scales a picture to a width, or to less beside a white margin if it would be too high."""
    scale = min(width / picture.shape[1], _HIGHEST * width / picture.shape[0])
    size = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    scaled = cv2.resize(picture, size, interpolation=how)
    return np.pad(scaled, ((0, 0), (0, width - size[0]), (0, 0)), constant_values=255)
