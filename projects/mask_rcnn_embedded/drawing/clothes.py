"""People in their clothes: skin, hair and textiles of a posed person."""

from __future__ import annotations

import numpy as np

from mask_rcnn_embedded.drawing.person import PERSON_AREA, PersonShape
from mask_rcnn_embedded.drawing.solid import Solid, Stroke
from mask_rcnn_embedded.drawing.textures import random_color, two_textures, vary

_SKIN_TONES = np.array(
    [
        [180, 205, 240],
        [150, 185, 225],
        [120, 160, 205],
        [85, 125, 175],
        [60, 90, 135],
        [40, 58, 85],
    ],
    dtype=np.float32,
)


def dressed(
    rng: np.random.Generator, shape: PersonShape, extent: float, theme: list[np.ndarray]
) -> Solid:
    """A person with skin, hair and clothes, still in unit coordinates.

    Args:
        shape: the posed person.
        extent: square root of the area in pixels that it will have.
    """
    size = extent / float(np.sqrt(PERSON_AREA))
    k = rng.uniform(0, len(_SKIN_TONES) - 1)
    low = int(k)
    skin = _SKIN_TONES[low] + (k - low) * (_SKIN_TONES[min(low + 1, 5)] - _SKIN_TONES[low])
    skin = vary(rng, skin, 0.02)
    clothes = []
    for _ in range(2):
        color = random_color(rng) if rng.random() < 0.7 else vary(rng, theme[0], 0.05)
        clothes.append(np.stack([color, vary(rng, color, rng.uniform(0.03, 0.3))]))
    hair = vary(rng, random_color(rng) * 0.55, 0.03)
    shoe = random_color(rng) * 0.7
    plain = [
        np.stack([c, c * f])
        for c, f in (
            (skin, 0.95),
            (hair, 0.8),
            (shoe, 0.85),
            (np.array([30.0, 28.0, 26.0]), 1.0),
            (skin * [0.6, 0.55, 0.85], 1.0),
            (np.array([235.0, 235.0, 235.0]), 1.0),
        )
    ]
    palette = np.stack([plain[0], plain[1], *clothes, *plain[2:]]).astype(np.float32)
    slots = np.array([0, 0, 0, 1, 0, 0, 0, 0], dtype=np.float32)
    return Solid(
        "person",
        shape.parts,
        palette,
        slots,
        two_textures(rng, 0.5 * extent),
        [Stroke(s.points, s.width * size, s.strength) for s in shape.strokes],
        shape.keypoints,
        shape.keypoint_parts,
        shape.keypoint_hidden,
        relief=float(rng.uniform(0.3, 0.8)),
        seams=float(rng.uniform(0.15, 0.5)),
    )
