"""One picture: what is in it, where it stands, what hides what, and how it is lit.

The owner map is the one truth about visibility: for each fine pixel it holds the number of the
solid on top. Pictures and annotations are both made from it and from the solids' rasters.
"""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

from mask_rcnn_embedded.coco.background import make_background
from mask_rcnn_embedded.coco.spec import THING_CLASSES, EmbeddedSpec
from mask_rcnn_embedded.coco.things import make_solid, object_palette
from mask_rcnn_embedded.drawing.photograph import photograph
from mask_rcnn_embedded.drawing.solid import SS, Part, Raster, Solid, paint, rasterize
from mask_rcnn_embedded.drawing.textures import random_color, two_textures

MIN_VISIBLE_AREA = 36.0
"""Instances with fewer visible pixels are taken out of the picture."""

_MAX_SOLIDS = 250  # the owner map is uint8 and 0 is the background

_PERSON_SHARE = 0.3  # persons among the instances


@dataclasses.dataclass
class Scene:
    """A finished picture with everything that its annotations need.

    Args:
        image: (H, W, 3) uint8 BGR.
        solids: back to front.
        rasters: one for each solid.
        owner: (SS*H, SS*W) uint8, 0 for the background, else 1 + index of the solid on top.
    """

    image: np.ndarray
    solids: list[Solid]
    rasters: list[Raster]
    owner: np.ndarray


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _extents(rng: np.random.Generator, count: int, scale: float) -> list[float]:
    """Square roots of mask areas in pixels, at most one of them large in COCO's sense.

    Args:
        count: number of instances.
        scale: short side of the image over 160 pixels.
    """
    large = min(count, int(rng.choice([0, 1], p=[0.4, 0.6])))
    extents = [_log_uniform(rng, 102.0, 120.0) for _ in range(large)]
    for _ in range(count - large):
        small = rng.random() < 0.4
        extents.append(_log_uniform(rng, 18.0, 31.5) if small else _log_uniform(rng, 33.0, 75.0))
    return [extent * scale for extent in extents]


def _place(
    rng: np.random.Generator,
    solid: Solid,
    boxes: list[np.ndarray],
    width: int,
    height: int,
    max_places: int,
) -> None:
    """Moves a solid to the least crowded of a few random places and notes its box."""
    x0, y0, x1, y1 = solid.bounds()
    w, h = x1 - x0, y1 - y0
    # Things may stick out of the image by up to a quarter; what does not fit sticks out anyway.
    slack = rng.choice([0.0, 0.08, 0.3], p=[0.55, 0.25, 0.2])
    extent, side = np.array([w, h]), np.array([width, height], dtype=np.float64)
    low, high = -slack * extent, side - extent + slack * extent
    too_big = low > high
    low = np.where(too_big, 0.7 * (side - extent), low)
    high = np.where(too_big, 0.3 * (side - extent), high)
    if solid.category == "person" and h > height:  # a close-up rather shows the head
        low[1], high[1] = -0.06 * height, 0.08 * height
    spots = low + (high - low) * rng.random((int(rng.integers(1, max_places + 1)), 2))
    best = spots[0]
    if boxes:
        taken = np.stack(boxes)
        overlap = np.minimum(spots[:, None] + extent, taken[:, 2:]) - np.maximum(
            spots[:, None], taken[:, :2]
        )
        smaller = np.minimum(w * h, np.prod(taken[:, 2:] - taken[:, :2], axis=1))
        cost = (np.prod(np.maximum(overlap, 0.0), axis=2) / np.maximum(smaller, 1.0)).sum(axis=1)
        best = spots[int(np.argmin(cost))]
    boxes.append(np.array([best[0], best[1], best[0] + w, best[1] + h]))
    solid.transform(np.eye(2), best - np.array([x0, y0]))


def _crowd(
    rng: np.random.Generator, scale: float, width: int, height: int, theme: list[np.ndarray]
) -> list[Solid]:
    """Many tiny things of one class, close together."""
    category = THING_CLASSES[int(rng.integers(len(THING_CLASSES)))]
    if rng.random() < 0.35:
        category = "person"
    count = int(rng.integers(11, 24))
    extent = rng.uniform(7.0, 12.0) * scale
    spread = np.array([rng.uniform(1.5, 3.0), rng.uniform(0.7, 1.6)]) * extent * np.sqrt(count) / 2
    center = rng.uniform(0.15, 0.85, 2) * [width, height]
    solids = []
    for _ in range(count):
        solid = make_solid(rng, category, extent * rng.uniform(0.8, 1.2), theme)
        x0, y0, x1, y1 = solid.bounds()
        radius, angle = np.sqrt(rng.random()), rng.uniform(0, 2 * np.pi)
        target = center + spread * radius * np.array([np.cos(angle), np.sin(angle)])
        solid.transform(np.eye(2), target - np.array([(x0 + x1) / 2, (y0 + y1) / 2]))
        solid.crowd, solid.keypoints = True, None
        solids.append(solid)
    solids.sort(key=lambda s: s.bounds()[3])
    return solids


def _twigs(rng: np.random.Generator, width: int, height: int, theme: list[np.ndarray]) -> Solid:
    """Thin stems in front of everything; they cut things behind them into pieces."""
    parts = []
    for _ in range(int(rng.integers(1, 5))):
        t = np.linspace(0.0, 1.0, 9)
        foot = np.array([rng.uniform(0, width), height * rng.uniform(0.95, 1.1)])
        reach, lean = rng.uniform(0.4, 1.2) * height, rng.normal(0.0, 0.3)
        x = foot[0] + lean * reach * t + rng.normal(0.0, 0.12) * reach * t**2
        y = foot[1] - reach * t
        half = rng.uniform(0.8, 3.2) * (1.0 - 0.7 * t)
        side = np.stack([half, np.zeros(9)], axis=1)
        line = np.stack([x, y], axis=1)
        parts.append(Part(np.concatenate([line - side, (line + side)[::-1]]).astype(np.float32), 0))
    palette, slots = object_palette(rng, theme)
    return Solid(None, parts, palette, slots, two_textures(rng, 40.0), relief=0.2)


def _plan(rng: np.random.Generator, spec: EmbeddedSpec, width: int, height: int) -> list[Solid]:
    """The solids of a scene, placed, back to front."""
    scale = spec.short_side / 160.0
    theme = [random_color(rng) for _ in range(4)]
    empty = rng.random() < spec.empty_fraction
    crowded = not empty and rng.random() < spec.crowd_fraction
    count = 0 if empty else int(np.clip(1 + rng.poisson(spec.mean_instances - 1.0), 1, 14))
    drafts: list[tuple[float, Solid]] = []
    for extent in _extents(rng, count, scale):
        other = THING_CLASSES[int(rng.integers(1, len(THING_CLASSES)))]
        category = "person" if rng.random() < _PERSON_SHARE else other
        drafts.append((extent, make_solid(rng, category, extent, theme)))
    for _ in range(int(rng.poisson(spec.mean_distractors))):
        extent = _log_uniform(rng, 9.0, 60.0) * scale
        drafts.append((extent, make_solid(rng, None, extent, theme)))
    # Large things are put in place first and mostly stand behind the small ones.
    drafts.sort(key=lambda item: -item[0])
    boxes: list[np.ndarray] = []
    for _, solid in drafts:
        _place(rng, solid, boxes, width, height, spec.max_places)
    order = [-np.log(extent) + rng.normal(0.0, 0.4) for extent, _ in drafts]
    solids = [drafts[k][1] for k in np.argsort(order, kind="stable")]
    if crowded:
        at = int(rng.integers(0, len(solids) + 1))
        solids[at:at] = _crowd(rng, scale, width, height, theme)
    if rng.random() < spec.twig_fraction:
        solids.append(_twigs(rng, width, height, theme))
    return solids[:_MAX_SOLIDS]


def _owner_map(rasters: list[Raster], width: int, height: int) -> np.ndarray:
    """(SS*H, SS*W) uint8: who is on top."""
    owner = np.zeros((height * SS, width * SS), dtype=np.uint8)
    for index, raster in enumerate(rasters):
        window = owner[raster.fine_window()]
        np.copyto(window, np.uint8(index + 1), where=raster.labels > 0)
    return owner


def image_size(rng: np.random.Generator, spec: EmbeddedSpec) -> tuple[int, int]:
    """(width, height): landscape more often than portrait, the short side as the spec says."""
    longest = spec.max_long_side / spec.short_side
    ratio = float(rng.choice([1.0, 4 / 3, 1.5, 1.25, longest], p=[0.12, 0.4, 0.24, 0.14, 0.1]))
    long_side = min(spec.max_long_side, round(spec.short_side * ratio) + int(rng.integers(-3, 4)))
    long_side = max(long_side, spec.short_side)
    return (long_side, spec.short_side) if rng.random() < 0.68 else (spec.short_side, long_side)


def make_scene(rng: np.random.Generator, spec: EmbeddedSpec) -> Scene:
    """Plans, draws and photographs one scene.

    Args:
        spec: what kind of data set the picture is for.
    """
    width, height = image_size(rng, spec)
    image = make_background(rng, height, width)
    planned = [(s, rasterize(s, width, height)) for s in _plan(rng, spec, width, height)]
    pairs = [(s, r) for s, r in planned if r is not None]
    owner = _owner_map([r for _, r in pairs], width, height)
    seen = cv2.calcHist([owner], [0], None, [256], [0, 256])[1:, 0] / float(SS**2)
    kept = []
    for (solid, raster), area in zip(pairs, seen, strict=False):
        smallest = MIN_VISIBLE_AREA * (0.4 if solid.crowd else 1.0)
        if solid.category is None or area >= max(smallest, spec.min_visible * raster.area):
            kept.append((solid, raster))
    solids, rasters = [s for s, _ in kept], [r for _, r in kept]
    if len(kept) < len(pairs):
        # Taking an instance out only uncovers others: one pass is enough.
        owner = _owner_map(rasters, width, height)
    angle = rng.uniform(-np.pi, 0.0)  # light comes from above
    light = np.array([np.cos(angle), np.sin(angle)])
    darkness, distance = rng.uniform(0.1, 0.55), rng.uniform(0.02, 0.09)
    for solid, raster in zip(solids, rasters, strict=True):
        extent = float(np.sqrt(raster.area))
        reach = min(distance * extent, 7.0)
        shadow = (-light[0] * reach, -light[1] * reach, max(0.7, 0.6 * reach), darkness)
        paint(image, solid, raster, light, shadow)
    return Scene(photograph(rng, image), solids, rasters, owner)


def render(spec: EmbeddedSpec, split: str, index: int) -> tuple[Scene, np.random.Generator]:
    """One scene and its random generator, which afterwards decides on the file format."""
    rng = spec.image_rng(split, index)
    return make_scene(rng, spec), rng
