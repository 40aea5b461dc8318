"""The camera: uneven light, exposure, colour cast, blur and sensor noise."""

from __future__ import annotations

import cv2
import numpy as np

from mask_rcnn_embedded.drawing.textures import fractal_noise


def photograph(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Uneven light, exposure, colour cast, blur and sensor noise.

    Args:
        image: (3, H, W) float32.

    Returns:
        (H, W, 3) uint8.
    """
    height, width = image.shape[1:]
    glow = fractal_noise(rng, height, width, 1, coarsest=1.2, octaves=1)[0]
    exposure = float(np.exp(rng.normal(0.0, 0.13)))
    cast = np.exp(rng.normal(0.0, 0.04, 3))
    light = np.float32(exposure) + np.float32(rng.uniform(0.02, 0.14)) * glow
    blur = rng.uniform(0.0, 0.75)
    level = float(rng.uniform(0.5, 3.5))
    vividness = np.float32(rng.uniform(0.4, 1.0))  # few photographs are as vivid as the palette
    grey = image.mean(axis=0)
    luma = rng.standard_normal((height, width), dtype=np.float32)
    luma = np.float32(level) * luma + np.float32(0.5)  # half: the conversion below cuts off
    tint = rng.standard_normal((3, height // 2 + 1, width // 2 + 1), dtype=np.float32)
    planes = []
    for c in range(3):
        plane = (grey + (image[c] - grey) * vividness) * (light * np.float32(cast[c]))
        if blur > 0.35:
            plane = cv2.GaussianBlur(plane, (0, 0), blur)
        chroma = cv2.resize(tint[c], (width, height), interpolation=cv2.INTER_LINEAR)
        plane += luma + np.float32(0.7 * level) * chroma
        planes.append(np.clip(plane, 0.0, 255.0).astype(np.uint8))
    return cv2.merge(planes)
