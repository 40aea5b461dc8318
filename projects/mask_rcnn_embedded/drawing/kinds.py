"""Colours and textures that are typical of a class, as grass is green and a football has patches.

Networks that are trained for minutes tell things apart by colour and texture before they know
shapes. So nine in ten things have those of their class. The quickstart and the streets have none.
"""

from __future__ import annotations

import colorsys
import dataclasses
from collections.abc import Sequence

import numpy as np

from mask_rcnn_embedded.drawing.solid import Solid
from mask_rcnn_embedded.drawing.textures import CLOTH, vary

KINDS: tuple[str, ...] = (
    # Classes of detection.
    "bicycle", "mug", "cup", "car", "motorcycle", "leaf", "fish", "bus", "star", "train", "cog",
    "truck", "bird", "dog", "umbrella", "bottle", "chair",
    # Classes of both sets of crops.
    "airplane", "bell", "clock", "elephant", "flower", "giraffe", "hammer", "heart", "horse",
    "mushroom", "table", "vase",
    # Classes of the larger set of crops.
    "anchor", "arrow", "ball", "bench", "butterfly", "cactus", "carrot", "crown", "dress", "fir",
    "glasses", "hourglass", "house", "ice_cream", "key", "ladder", "lamp", "light_bulb",
    "lighthouse", "pawn", "pig", "rocket", "snowflake", "snowman", "spoon", "swan", "t_shirt",
    "trousers", "windmill", "wine_glass",
)  # fmt: skip
"""All classes but ``person``, whose clothes have any colour."""

_TYPICAL_SHARE = 0.9
_GOLDEN = 0.618034  # of the circle of hues: neighbours in the list above differ most


def typical_color(kind: str) -> np.ndarray:
    """(3,) float32 BGR that is typical of a class of :data:`KINDS`."""
    k = KINDS.index(kind)
    r, g, b = colorsys.hsv_to_rgb(_GOLDEN * k % 1.0, (0.85, 0.6)[k % 2], (0.8, 0.5, 0.95)[k % 3])
    return np.array([b, g, r], dtype=np.float32) * 255.0


def typical_texture(kind: str) -> str:
    """The texture that is typical of a class of :data:`KINDS`."""
    return CLOTH[5 * KINDS.index(kind) % len(CLOTH)]


def color_by_kind(rng: np.random.Generator, solid: Solid, tones: Sequence[int]) -> None:
    """Gives most solids the colour and texture of their category, in place.

    Args:
        solid: of a category in :data:`KINDS`; others are left as they are.
        tones: those that are coloured, the main one first. Their brightness beside it is kept.
    """
    if solid.category not in KINDS or rng.random() >= _TYPICAL_SHARE:
        return
    chosen = list(tones)
    color, texture = vary(rng, typical_color(solid.category), 0.05), typical_texture(solid.category)
    grey = solid.palette[chosen, 0].mean(axis=1)
    tinted = color * np.clip(grey / max(float(grey[0]), 30.0), 0.4, 1.6)[:, None]
    solid.palette[chosen] = np.clip(np.stack([tinted, 0.55 * tinted], axis=1), 4.0, 251.0)
    first, second = (dataclasses.replace(old, name=texture) for old in solid.textures)
    solid.textures = (first, second)
