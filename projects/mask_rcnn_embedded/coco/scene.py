"""One picture: what is in it, where it stands, what hides what, and how it is lit.

The owner map is the one truth about visibility: for each fine pixel it holds the number of the
solid on top. Pictures and annotations are both made from it and from the solids' rasters.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from mask_rcnn_embedded.coco.background import make_background
from mask_rcnn_embedded.coco.spec import OTHER_THINGS, THING_CLASSES, EmbeddedSpec
from mask_rcnn_embedded.drawing.figures import cycle_mask
from mask_rcnn_embedded.drawing.photograph import photograph
from mask_rcnn_embedded.drawing.solid import SS, Part, Raster, Solid, paint, rasterize
from mask_rcnn_embedded.drawing.textures import random_color, random_texture, two_textures
from mask_rcnn_embedded.drawing.things import make_object, object_palette

MIN_VISIBLE_AREA = 36.0
"""Instances with fewer visible pixels are taken out of the picture."""

MAX_SOLIDS = 250  # the owner map is uint8 and 0 is the background

_PERSON_SHARE = 0.28  # persons among the instances

_GROUND_VIVIDNESS = (0.15, 0.5)  # of colours: things stand out, as in most photographs

_USUAL_SIDE = 320  # pixels; the short side for which sizes of things are given

MOST_OF_SIDE = 1.2
"""The short side of an image is up to this much longer than the spec says."""


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


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A number whose logarithm is uniform between those of ``low`` and ``high``."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def place(
    rng: np.random.Generator,
    solids: list[Solid],
    boxes: list[np.ndarray],
    width: int,
    height: int,
    max_places: int,
) -> None:
    """Moves solids together to the least crowded of a few random places and notes their box."""
    bounds = np.array([solid.bounds() for solid in solids])
    (x0, y0), (x1, y1) = bounds[:, :2].min(axis=0), bounds[:, 2:].max(axis=0)
    w, h = x1 - x0, y1 - y0
    # Things may stick out of the image by up to a quarter; what does not fit sticks out anyway.
    slack = rng.choice([0.0, 0.08, 0.3], p=[0.55, 0.25, 0.2])
    extent, side = np.array([w, h]), np.array([width, height], dtype=np.float64)
    low, high = -slack * extent, side - extent + slack * extent
    too_big = low > high
    low = np.where(too_big, 0.7 * (side - extent), low)
    high = np.where(too_big, 0.3 * (side - extent), high)
    if solids[-1].category == "person" and h > height:  # a close-up rather shows the head
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
    for solid in solids:
        solid.transform(np.eye(2), best - np.array([x0, y0]))


def crowd(
    rng: np.random.Generator,
    classes: Sequence[str],
    scale: float,
    width: int,
    height: int,
    theme: list[np.ndarray],
    make: Callable[..., Solid],
) -> list[Solid]:
    """Many tiny things of one class, close together.

    Args:
        classes: one of which is chosen, or ``person``.
        scale: size of the things over that in an image of 160 pixels.
        make: draws one, as :func:`~mask_rcnn_embedded.drawing.things.make_solid`.
    """
    category = classes[int(rng.integers(len(classes)))]
    if rng.random() < 0.35:
        category = "person"
    count = int(rng.integers(11, 24))
    extent = rng.uniform(7.0, 12.0) * scale
    spread = np.array([rng.uniform(1.5, 3.0), rng.uniform(0.7, 1.6)]) * extent * np.sqrt(count) / 2
    center = rng.uniform(0.15, 0.85, 2) * [width, height]
    solids = []
    for _ in range(count):
        solid = make(rng, category, extent * rng.uniform(0.8, 1.2), theme)
        x0, y0, x1, y1 = solid.bounds()
        radius, angle = np.sqrt(rng.random()), rng.uniform(0, 2 * np.pi)
        target = center + spread * radius * np.array([np.cos(angle), np.sin(angle)])
        solid.transform(np.eye(2), target - np.array([(x0 + x1) / 2, (y0 + y1) / 2]))
        solid.crowd, solid.keypoints = True, None
        solids.append(solid)
    solids.sort(key=lambda s: s.bounds()[3])
    return solids


def twigs(rng: np.random.Generator, width: int, height: int, theme: list[np.ndarray]) -> Solid:
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


def _owner_map(pairs: list[tuple[Solid, Raster]], width: int, height: int) -> np.ndarray:
    """(SS*H, SS*W) uint8: who is on top. What is between the tubes of a cycle belongs to it."""
    owner = np.zeros((height * SS, width * SS), dtype=np.uint8)
    for index, (solid, raster) in enumerate(pairs):
        covered = raster.labels > 0
        if solid.category in ("bicycle", "motorcycle") and not solid.crowd:
            covered |= cycle_mask(raster.alpha).repeat(SS, axis=0).repeat(SS, axis=1)
        np.copyto(owner[raster.fine_window()], np.uint8(index + 1), where=covered)
    return owner


def image_size(rng: np.random.Generator, short: int, longest: int) -> tuple[int, int]:
    """(width, height): landscape more often than portrait.

    Args:
        short: the short side.
        longest: upper limit of the long side.
    """
    most = longest / short
    ratio = float(rng.choice([1.0, 4 / 3, 1.5, 1.25, most], p=[0.12, 0.4, 0.24, 0.14, 0.1]))
    long_side = min(longest, round(short * ratio) + int(rng.integers(-3, 4)))
    long_side = max(long_side, short)
    return (long_side, short) if rng.random() < 0.68 else (short, long_side)


def compose(
    rng: np.random.Generator, image: np.ndarray, planned: list[Solid], min_visible: float
) -> Scene:
    """Draws solids into a background, lights and photographs them.

    Args:
        image: (3, H, W) float32 BGR background; changed in place.
        planned: solids in place, back to front.
        min_visible: instances of which a smaller share is visible are taken out.
    """
    height, width = image.shape[1:]
    pairs = [(s, r) for s in planned if (r := rasterize(s, width, height)) is not None]
    owner = _owner_map(pairs, width, height)
    seen = cv2.calcHist([owner], [0], None, [256], [0, 256])[1:, 0] / float(SS**2)
    kept = []
    for (solid, raster), area in zip(pairs, seen, strict=False):
        smallest = MIN_VISIBLE_AREA * (0.4 if solid.crowd else 1.0)
        if solid.category is None or area >= max(smallest, min_visible * raster.area):
            kept.append((solid, raster))
    solids, rasters = [s for s, _ in kept], [r for _, r in kept]
    if len(kept) < len(pairs):
        # Taking an instance out only uncovers others: one pass is enough.
        owner = _owner_map(kept, width, height)
    angle = rng.uniform(-np.pi, 0.0)  # light comes from above
    light = np.array([np.cos(angle), np.sin(angle)])
    darkness, distance = rng.uniform(0.1, 0.55), rng.uniform(0.02, 0.09)
    for solid, raster in zip(solids, rasters, strict=True):
        extent = float(np.sqrt(raster.area))
        reach = min(distance * extent, 7.0)
        shadow = (-light[0] * reach, -light[1] * reach, max(0.7, 0.6 * reach), darkness)
        paint(image, solid, raster, light, shadow)
    return Scene(photograph(rng, image), solids, rasters, owner)


def _extent(rng: np.random.Generator, person: bool) -> float:
    """Square root of a mask's area in pixels; COCO's small, medium and large are all common."""
    kind = rng.random() + (0.14 if person else 0.0)
    if kind < 0.22:
        return log_uniform(rng, 17.0, 31.0)
    return log_uniform(rng, 34.0, 95.0) if kind < 0.66 else log_uniform(rng, 98.0, 190.0)


def _category(rng: np.random.Generator) -> str:
    if rng.random() < _PERSON_SHARE:
        return "person"
    return THING_CLASSES[int(rng.integers(1, len(THING_CLASSES)))]


def _plan(rng: np.random.Generator, spec: EmbeddedSpec, width: int, height: int) -> list[Solid]:
    """The solids of a scene, placed, back to front."""
    # The tiny data set has smaller pictures of smaller things.
    scale = min(width, height) / _USUAL_SIDE if spec.short_side < 0.8 * _USUAL_SIDE else 1.0
    theme = [random_color(rng) for _ in range(4)]
    empty = rng.random() < spec.empty_fraction
    count = 0 if empty else int(np.clip(1 + rng.poisson(spec.mean_instances - 1.0), 1, 20))
    drafts: list[tuple[float, list[Solid]]] = []
    for _ in range(count):
        category = _category(rng)
        extent = _extent(rng, category == "person") * scale
        drafts.append((extent, make_object(rng, category, extent, theme)))
    for _ in range(int(rng.poisson(spec.mean_distractors))):
        extent = log_uniform(rng, 12.0, 130.0) * scale
        other = OTHER_THINGS[int(rng.integers(len(OTHER_THINGS)))] if rng.random() < 0.5 else None
        solids = make_object(rng, other, extent, theme)
        solids[0].category = None
        drafts.append((extent, solids))
    drafts.sort(key=lambda item: -item[0])
    boxes: list[np.ndarray] = []
    for _, solids in drafts:
        place(rng, solids, boxes, width, height, spec.max_places)
    order = [-np.log(extent) + rng.normal(0.0, 0.5) for extent, _ in drafts]
    planned = [solid for k in np.argsort(order, kind="stable") for solid in drafts[k][1]]
    if not empty and rng.random() < spec.crowd_fraction:
        at = int(rng.integers(0, len(planned) + 1))
        make = lambda *args: make_object(*args)[0]  # noqa: E731 - without riders
        planned[at:at] = crowd(rng, THING_CLASSES, 1.6 * scale, width, height, theme, make)
    if rng.random() < spec.twig_fraction:
        planned.append(twigs(rng, width, height, theme))
    return planned[:MAX_SOLIDS]


def enlarged(
    rng: np.random.Generator, background: np.ndarray, height: int, width: int
) -> np.ndarray:
    """A background that was drawn at half size, paler, with grain at full size.

    Args:
        background: (3, h, w) float32.

    Returns:
        (3, height, width) float32.
    """
    image = np.stack([cv2.resize(plane, (width, height)) for plane in background])
    grey = image.mean(axis=0)
    image = grey + (image - grey) * np.float32(rng.uniform(*_GROUND_VIVIDNESS))
    grain = random_texture(rng, 40.0, ("cloud", "rough", "grain")).sample(0, 0, width, height)
    grain -= np.float32(0.5)
    grain *= np.float32(rng.uniform(5.0, 60.0))
    image += grain
    return image


def make_scene(rng: np.random.Generator, spec: EmbeddedSpec) -> Scene:
    """Plans, draws and photographs one scene.

    Args:
        spec: what kind of data set the picture is for.
    """
    side = round(spec.short_side * rng.uniform(1.0, MOST_OF_SIDE))
    width, height = image_size(rng, side, max(side, spec.max_long_side))
    half = make_background(rng, (height + 1) // 2, (width + 1) // 2)
    image = enlarged(rng, half, height, width)
    return compose(rng, image, _plan(rng, spec, width, height), spec.min_visible)


def render(spec: EmbeddedSpec, split: str, index: int) -> tuple[Scene, np.random.Generator]:
    """One scene and its random generator, which afterwards decides on the file format."""
    rng = spec.image_rng(split, index)
    return make_scene(rng, spec), rng
