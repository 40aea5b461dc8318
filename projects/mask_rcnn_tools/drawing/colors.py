"""Fixed colors of classes and instances, which color-blind people can distinguish.

The first seven are from Okabe and Ito ("Color Universal Design", 2008). Each other one is the color
with the largest CIELAB distance to all before it, for normal vision, protanopia and deuteranopia
(Machado et al. 2009). Any two are at least 17 apart in all three. After twenty the colors repeat.
"""

from __future__ import annotations

Color = tuple[int, int, int]
"""Red, green, blue in [0, 255]."""

PALETTE: tuple[Color, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
    (85, 0, 255),
    (136, 255, 170),
    (51, 119, 255),
    (153, 51, 34),
    (85, 255, 255),
    (136, 51, 102),
    (85, 187, 102),
    (204, 238, 119),
    (51, 221, 170),
    (102, 51, 187),
    (119, 153, 255),
    (153, 17, 136),
    (153, 51, 68),
)

GREY: Color = (150, 150, 150)
"""Color of crowd and ignored regions."""

WHITE: Color = (255, 255, 255)
BLACK: Color = (0, 0, 0)


def color_of(index: int) -> Color:
    """Returns the color of a class, or of an instance if there is one class; index from 0."""
    return PALETTE[index % len(PALETTE)]


def text_color(background: Color) -> Color:
    """Returns black or white, whichever has more contrast to a background (WCAG 2)."""
    return BLACK if _luminance(background) > 0.179 else WHITE


def _luminance(color: Color) -> float:
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in (value / 255 for value in color)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
