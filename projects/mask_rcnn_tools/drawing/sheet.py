"""Contact sheets of pictures."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from mask_rcnn_tools.drawing.labels import with_caption

_GAP = 6
_LETTERS = 12


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


def _to_width(picture: np.ndarray, width: int) -> np.ndarray:
    height = max(1, round(picture.shape[0] * width / picture.shape[1]))
    how = cv2.INTER_AREA if width < picture.shape[1] else cv2.INTER_CUBIC
    return cv2.resize(picture, (width, height), interpolation=how)
