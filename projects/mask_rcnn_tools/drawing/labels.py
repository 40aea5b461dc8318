"""Text on pictures: labels that look for a free place, and captions.

Text is set in DejaVu Sans, which comes with matplotlib and has the letters of most alphabets.
Coordinates are pixels of the picture.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mask_rcnn_tools.drawing.colors import BLACK, WHITE, text_color
from mask_rcnn_tools.drawing.marks import Mark

Rectangle = tuple[int, int, int, int]
_SMALLEST = 11
_PADDING = 2


def font_size_for(short_edge: int) -> int:
    """Height of letters in pixels for a picture with this shorter edge: 13 for 480, 42 for 2160."""
    return max(_SMALLEST, round(13 * (short_edge / 480) ** 0.78))


@functools.lru_cache(maxsize=32)
def font(size: int) -> ImageFont.FreeTypeFont:
    """The font in a size in pixels."""
    file = os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    return ImageFont.truetype(file, size)


def draw_labels(canvas: np.ndarray, marks: Sequence[Mark], zoom: float, size: int) -> np.ndarray:
    """Draws the marks' labels, each on a ground of the mark's colour.

    A label goes to the first place at its box where no earlier label is; where there is none, to
    the one that covers least.

    Args:
        canvas: (H, W, 3) uint8 RGB.
        marks: In the image's frame, most important first; those without label or box are left out.
        zoom: Pixels of the canvas per pixel of the image.
        size: Height of letters.

    Returns:
        A new picture; `canvas` itself if there is nothing to draw.
    """
    labelled = [mark for mark in marks if mark.label and mark.box is not None]
    if not labelled:
        return canvas
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture, "RGBA")
    placed: list[Rectangle] = []
    for mark in labelled:
        assert mark.box is not None
        width, height = _text_size(mark.label, size)
        box = tuple(round(v * zoom) for v in mark.box)
        place = _free_place(box, (width, height), picture.size, placed)
        placed.append(place)
        draw.rectangle((place[0], place[1], place[2] - 1, place[3] - 1), fill=(*mark.color, 225))
        spot = place[0] + _PADDING, place[1]
        draw.text(spot, mark.label, font=font(size), fill=(*text_color(mark.color), 255))
    return np.array(picture)


def _text_size(text: str, size: int) -> tuple[int, int]:
    face = font(size)
    ascent, descent = face.getmetrics()
    return round(face.getlength(text)) + 2 * _PADDING, ascent + descent


def _free_place(
    box: tuple[int, ...],
    size: tuple[int, int],
    limits: tuple[int, int],
    placed: Sequence[Rectangle],
) -> Rectangle:
    x0, y0, x1, y1 = box
    width, height = size
    corners = [
        *((x0, y0 - height), (x0, y1), (x1 - width, y0 - height), (x1 - width, y1)),
        *((x1, y0), (x0 - width, y0), (x1, y1 - height), (x0 - width, y1 - height)),
        *((x0, y0), (x0, y1 - height), (x1 - width, y0), (x1 - width, y1 - height)),
        *((x0, y0 - 2 * height), (x0, y1 + height), (x0, (y0 + y1 - height) // 2)),
    ]
    places = []
    for left, top in corners:
        left = max(0, min(left, limits[0] - width))
        top = max(0, min(top, limits[1] - height))
        place = (left, top, left + width, top + height)
        if not any(_overlap(place, other) for other in placed):
            return place
        places.append(place)
    return min(places, key=lambda place: sum(_overlap(place, other) for other in placed))


def _overlap(one: Rectangle, other: Rectangle) -> int:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0, width) * max(0, height)


def with_caption(picture: np.ndarray, lines: Sequence[str], size: int | None = None) -> np.ndarray:
    """Puts text above a picture, broken where it would be wider.

    Args:
        picture: (H, W, 3) uint8 RGB.
        lines: Paragraphs.
        size: Height of letters; None chooses it by the picture.

    Returns:
        (H', W, 3): the picture below a white bar. No lines: the picture itself.
    """
    size = size or font_size_for(min(picture.shape[:2]))
    broken = [row for line in lines for row in _wrapped(line, picture.shape[1] - 8, size)]
    if not broken:
        return picture
    step = sum(font(size).getmetrics())
    bar = Image.new("RGB", (picture.shape[1], step * len(broken) + 6), WHITE)
    draw = ImageDraw.Draw(bar)
    for number, row in enumerate(broken):
        draw.text((4, 3 + number * step), row, font=font(size), fill=BLACK)
    return np.concatenate([np.asarray(bar), picture])


def _wrapped(text: str, width: int, size: int) -> list[str]:
    """Lines no wider than `width`; a word that is wider is cut."""
    face, rows, row = font(size), [], ""
    for word in text.split(" "):
        joined = f"{row} {word}" if row else word
        if face.getlength(joined) <= width:
            row = joined
            continue
        if row:
            rows.append(row)
        row = word
        while len(row) > 1 and face.getlength(row) > width:
            fits = max(
                n for n in range(1, len(row) + 1) if n == 1 or face.getlength(row[:n]) <= width
            )
            rows.append(row[:fits])
            row = row[fits:]
    return [*rows, row] if row else rows
