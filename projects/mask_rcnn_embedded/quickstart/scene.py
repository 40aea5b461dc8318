"""One picture of the quickstart: what is in it and where it stands."""

from __future__ import annotations

import numpy as np

from mask_rcnn_embedded.coco.background import make_background
from mask_rcnn_embedded.coco.scene import (
    MAX_SOLIDS,
    Scene,
    compose,
    crowd,
    image_size,
    log_uniform,
    place,
    twigs,
)
from mask_rcnn_embedded.drawing.solid import Solid
from mask_rcnn_embedded.drawing.textures import random_color
from mask_rcnn_embedded.drawing.things import make_solid
from mask_rcnn_embedded.quickstart.spec import THING_CLASSES, QuickstartSpec

_PERSON_SHARE = 0.3  # persons among the instances


def _extents(rng: np.random.Generator, count: int, scale: float) -> list[float]:
    """Square roots of mask areas in pixels, at most one of them large in COCO's sense.

    Args:
        count: number of instances.
        scale: short side of the image over 160 pixels.
    """
    large = min(count, int(rng.choice([0, 1], p=[0.4, 0.6])))
    extents = [log_uniform(rng, 102.0, 120.0) for _ in range(large)]
    for _ in range(count - large):
        small = rng.random() < 0.4
        extents.append(log_uniform(rng, 18.0, 31.5) if small else log_uniform(rng, 33.0, 75.0))
    return [extent * scale for extent in extents]


def _plan(rng: np.random.Generator, spec: QuickstartSpec, width: int, height: int) -> list[Solid]:
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
        extent = log_uniform(rng, 9.0, 60.0) * scale
        drafts.append((extent, make_solid(rng, None, extent, theme)))
    # Large things are put in place first and mostly stand behind the small ones.
    drafts.sort(key=lambda item: -item[0])
    boxes: list[np.ndarray] = []
    for _, solid in drafts:
        place(rng, [solid], boxes, width, height, spec.max_places)
    order = [-np.log(extent) + rng.normal(0.0, 0.4) for extent, _ in drafts]
    solids = [drafts[k][1] for k in np.argsort(order, kind="stable")]
    if crowded:
        at = int(rng.integers(0, len(solids) + 1))
        solids[at:at] = crowd(rng, THING_CLASSES, scale, width, height, theme, make_solid)
    if rng.random() < spec.twig_fraction:
        solids.append(twigs(rng, width, height, theme))
    return solids[:MAX_SOLIDS]


def make_scene(rng: np.random.Generator, spec: QuickstartSpec) -> Scene:
    """Plans, draws and photographs one scene.

    Args:
        spec: what kind of data set the picture is for.
    """
    width, height = image_size(rng, spec.short_side, spec.max_long_side)
    image = make_background(rng, height, width)
    return compose(rng, image, _plan(rng, spec, width, height), spec.min_visible)


def render(spec: QuickstartSpec, split: str, index: int) -> tuple[Scene, np.random.Generator]:
    """One scene and its random generator, which afterwards decides on the file format."""
    rng = spec.image_rng(split, index)
    return make_scene(rng, spec), rng
