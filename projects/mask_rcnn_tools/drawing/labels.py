"""Text on pictures: labels at free places, captions and legends.

Fonts are those of :mod:`mask_rcnn_tools.common.fonts`, one for each text.
Coordinates are pixels of the picture.
"""

from __future__ import annotations

import functools
import math
import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mask_rcnn_tools.common.fonts import font_file
from mask_rcnn_tools.drawing.colors import BLACK, WHITE, Color, text_color
from mask_rcnn_tools.drawing.marks import Mark

Rectangle = tuple[int, int, int, int]
_SMALLEST = 11
_PADDING = 2
_CAPTION_LETTERS = 26
"""Letters in a row of a caption, at least; a narrower picture gets a white margin on the right."""


def font_size_for(short_edge: int) -> int:
    """Returns the font size in pixels for a picture with this shorter edge: 13 for 480."""
    return max(_SMALLEST, round(13 * (short_edge / 480) ** 0.78))


_load = functools.lru_cache(maxsize=32)(ImageFont.truetype)


def font(size: int, text: str, name: str = "DejaVuSans") -> ImageFont.FreeTypeFont:
    """Loads a font that has the characters of a text, in a size in pixels."""
    return _load(font_file(text, name), size)


def draw_labels(canvas: np.ndarray, marks: Sequence[Mark], zoom: float, size: int) -> np.ndarray:
    """Draws the labels of marks on a background of the mark's color.

    Each label takes the first place at its box that no earlier label covers, or else the place with
    the least overlap.

    Args:
        canvas: (H, W, 3) uint8 RGB.
        marks: Marks in the frame of the image, most important first. Marks without label or box are
            omitted.
        zoom: Pixels of the canvas per pixel of the image.
        size: Font size in pixels.

    Returns:
        A new picture, or `canvas` if there is nothing to draw.
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
        draw.text(
            spot, mark.label, font=font(size, mark.label), fill=(*text_color(mark.color), 255)
        )
    return np.array(picture)


def _text_size(text: str, size: int) -> tuple[int, int]:
    face = font(size, text)
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
    """Adds wrapped text above a picture.

    Args:
        picture: (H, W, 3) uint8 RGB.
        lines: Paragraphs.
        size: Font size in pixels; None derives it from the picture.

    Returns:
        (H', W', 3) picture below a white bar, or `picture` if there are no lines. A picture that is
        narrower than a short line becomes wider.
    """
    size = size or font_size_for(min(picture.shape[:2]))
    text = "".join(lines)
    face = font(size, text, "DejaVuSansMono")
    letter = face.getlength("0") if text.isascii() else max(map(face.getlength, {"0", *text}))
    width = max(_CAPTION_LETTERS, int((picture.shape[1] - 8) / letter))
    broken = [row for line in lines for row in textwrap.wrap(line, width)]
    if not broken:
        return picture
    margin = max(0, math.ceil(width * letter) + 8 - picture.shape[1])
    picture = np.pad(picture, ((0, 0), (0, margin), (0, 0)), constant_values=255)
    step = sum(face.getmetrics())
    bar = Image.new("RGB", (picture.shape[1], step * len(broken) + 6), WHITE)
    draw = ImageDraw.Draw(bar)
    for number, row in enumerate(broken):
        draw.text((4, 3 + number * step), row, font=face, fill=BLACK)
    return np.concatenate([np.asarray(bar), picture])


def legend(entries: Sequence[tuple[Color, str]], width: int, size: int) -> np.ndarray:
    """Draws a legend.

    Args:
        entries: Colors and their meanings.
        width: W, in pixels.
        size: Font size in pixels.

    Returns:
        (H, W, 3) uint8 RGB: the texts on their colors, in as many rows as needed.
    """
    places, left, row = [], _PADDING, 0
    for _, text in entries:
        length, height = _text_size(text, size)
        if left > _PADDING and left + length > width:
            left, row = _PADDING, row + 1
        places.append(
            (left, row * (height + _PADDING), left + length, row * (height + _PADDING) + height)
        )
        left += length + 4 * _PADDING
    bar = Image.new("RGB", (width, places[-1][3] + _PADDING), WHITE)
    draw = ImageDraw.Draw(bar)
    for (color, text), place in zip(entries, places, strict=True):
        draw.rectangle(place, fill=color)
        draw.text(
            (place[0] + _PADDING, place[1]), text, font=font(size, text), fill=text_color(color)
        )
    return np.array(bar)
