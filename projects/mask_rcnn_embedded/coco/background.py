"""Backgrounds: landscapes, rooms and surfaces with patches and lines that are no objects.

Images are planar while they are drawn: (3, H, W) float32 BGR in 0..255.
"""

from __future__ import annotations

import cv2
import numpy as np

from mask_rcnn_embedded.drawing.textures import (
    GROUND,
    fractal_noise,
    random_color,
    random_texture,
    vary,
)


def _plane(color: np.ndarray) -> np.ndarray:
    """(3,) colour as (3, 1, 1) float32."""
    return color.astype(np.float32)[:, None, None]


def _textured(
    rng: np.random.Generator, height: int, width: int, color: np.ndarray, contrast: float
) -> np.ndarray:
    """A surface of one colour with a texture and cloudy variation."""
    texture = random_texture(rng, 0.7 * min(height, width), GROUND)
    other = vary(rng, color, contrast)
    mix = texture.sample(0, 0, width, height)
    surface = _plane(color) + _plane(other - color) * mix
    # The cloudy part has no detail finer than a few pixels: a quarter of the size will do.
    cloud = fractal_noise(rng, height // 4, width // 4, 3, octaves=4)
    cloud *= np.float32(rng.uniform(3.0, 9.0))
    for plane, layer in zip(surface, cloud, strict=True):
        plane += cv2.resize(layer, (width, height), interpolation=cv2.INTER_CUBIC)
    return surface


def _ridge(rng: np.random.Generator, width: int, level: float, roughness: float) -> np.ndarray:
    """(W,) height of an irregular horizon."""
    return level + roughness * fractal_noise(rng, 1, width, 1, octaves=6, persistence=0.5)[0, 0]


def _below(height: int, ridge: np.ndarray) -> np.ndarray:
    """(H, W) coverage of the region below a ridge, with a soft edge of one pixel."""
    rows = np.arange(height, dtype=np.float32)[:, None] + 0.5
    return np.clip(rows - ridge[None, :] + 0.5, 0.0, 1.0).astype(np.float32)


def _landscape(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Sky with clouds, hills, ground with grain that is finer towards the horizon."""
    top, haze = random_color(rng), random_color(rng)
    haze = 0.5 * haze + 110.0
    t = np.linspace(0.0, 1.0, height, dtype=np.float32)[:, None]
    image = _plane(top) + _plane(haze - top) * np.broadcast_to(t, (height, width))
    clouds = fractal_noise(rng, height, width, 1, octaves=5, stretch=2.0)
    image = image + (np.float32(235.0) - image) * np.clip(clouds * 0.35, 0.0, 0.7)
    level = rng.uniform(0.15, 0.75) * height
    for _ in range(int(rng.integers(0, 3))):
        ridge = _ridge(rng, width, level - rng.uniform(0.0, 0.15) * height, 0.05 * height)
        hill = _plane(vary(rng, 0.5 * haze + 0.5 * random_color(rng), 0.05))
        image += (hill - image) * _below(height, ridge)
    color = random_color(rng)
    ground = _textured(rng, height, width, color, 0.1)
    coarse = fractal_noise(rng, height, width, 1, octaves=6, persistence=0.75, stretch=2.5)
    ground += coarse * np.float32(rng.uniform(6.0, 20.0))
    image += (ground - image) * _below(height, _ridge(rng, width, level, 0.012 * height))
    return image


def _room(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A wall, a floor or table, an edge between them."""
    wall = _textured(rng, height, width, random_color(rng), 0.09)
    floor = _textured(rng, height, width, random_color(rng), 0.12)
    level, tilt = rng.uniform(0.3, 0.85) * height, rng.normal(0.0, 0.08)
    edge = level + tilt * (np.arange(width, dtype=np.float32) - 0.5 * width)
    image = wall + (floor - wall) * _below(height, edge)
    if rng.random() < 0.6:  # skirting board or table edge
        band = _below(height, edge) - _below(height, edge + rng.uniform(2.0, 7.0))
        image += (_plane(random_color(rng)) - image) * (band * np.float32(0.8))
    return image


def _surface(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """One surface seen from above: ground, table, cloth."""
    image = _textured(rng, height, width, random_color(rng), 0.12)
    detail = fractal_noise(rng, height, width, 1, octaves=6, persistence=0.8)
    image += detail * np.float32(rng.uniform(4.0, 18.0))
    return image


def _patch(rng: np.random.Generator, image: np.ndarray) -> None:
    """Lays a textured quadrilateral or blob over the image, in place."""
    height, width = image.shape[1:]
    size = rng.uniform(0.15, 0.6) * min(height, width)
    n = 4 if rng.random() < 0.6 else 12
    angle = np.arange(n) * 2 * np.pi / n + rng.uniform(0, 6.3)
    radius = size * rng.uniform(0.6, 1.0, n) * 0.7
    center = rng.uniform(0, 1, 2) * [width, height]
    points = center + np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    mask = np.zeros((height, width), dtype=np.uint8)
    cv2.fillPoly(mask, [np.round(points * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    blur = rng.uniform(0.4, 2.5)
    cover = cv2.GaussianBlur(mask, (0, 0), blur).astype(np.float32)
    x, y, w, h = cv2.boundingRect(np.clip(points, 0, [width - 1, height - 1]).astype(np.int32))
    pad = int(3 * blur) + 2
    x0, y0, x1, y1 = (
        max(0, x - pad),
        max(0, y - pad),
        min(width, x + w + pad),
        min(height, y + h + pad),
    )
    color = random_color(rng)
    mix = random_texture(rng, size, GROUND).sample(x0, y0, x1 - x0, y1 - y0)
    surface = _plane(color) + _plane(vary(rng, color, 0.15) - color) * mix
    window = image[:, y0:y1, x0:x1]
    opacity = np.float32(rng.uniform(0.6, 1.0) / 255.0)
    window += (surface - window) * (cover[y0:y1, x0:x1] * opacity)


def _lines(rng: np.random.Generator, image: np.ndarray) -> None:
    """Draws a few cracks, wires or twigs, in place."""
    height, width = image.shape[1:]
    ink = np.zeros((height, width), dtype=np.uint8)
    for _ in range(int(rng.integers(1, 5))):
        start = rng.uniform(-0.1, 1.1, 2) * [width, height]
        heading, length = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 1.2) * max(height, width)
        turns = heading + np.cumsum(rng.normal(0.0, rng.uniform(0.02, 0.35), 8))
        steps = np.stack([np.cos(turns), np.sin(turns)], axis=1) * (length / 8)
        points = start + np.concatenate([np.zeros((1, 2)), np.cumsum(steps, axis=0)])
        cv2.polylines(
            ink, [np.round(points * 16).astype(np.int32)], False,
            int(rng.integers(90, 255)), int(rng.integers(1, 4)), cv2.LINE_AA, 4,
        )  # fmt: skip
    amount = ink.astype(np.float32) * np.float32(1.0 / 255.0)
    image += (_plane(random_color(rng)) - image) * amount


def make_background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A random background.

    Args:
        height: H.
        width: W.

    Returns:
        (3, H, W) float32 BGR, about 0..255, not clipped.
    """
    kind = rng.random()
    make = _landscape if kind < 0.42 else _room if kind < 0.7 else _surface
    image = np.ascontiguousarray(make(rng, height, width), dtype=np.float32)
    for _ in range(int(rng.integers(0, 3))):
        _patch(rng, image)
    if rng.random() < 0.3:
        _lines(rng, image)
    # Distance and haze: backgrounds have less contrast and colour than what stands before them.
    mean = image.mean(axis=(1, 2), keepdims=True)
    return mean + (image - mean) * np.float32(rng.uniform(0.45, 0.85))
