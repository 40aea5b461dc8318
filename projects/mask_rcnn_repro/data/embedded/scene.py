"""One picture: what is in it, where it stands, what hides what, and how it is lit.

The owner map is the one truth about visibility: for each fine pixel it holds the number of the
solid on top. Pictures and annotations are both made from it and from the solids' rasters.
"""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

from mask_rcnn_repro.data.embedded.background import make_background
from mask_rcnn_repro.data.embedded.person import PERSON_AREA, make_person
from mask_rcnn_repro.data.embedded.shapes import OBJECTS, UPRIGHT, Shape, distractor
from mask_rcnn_repro.data.embedded.solid import SS, Part, Raster, Solid, Stroke, paint, rasterize
from mask_rcnn_repro.data.embedded.spec import THING_CLASSES, EmbeddedSpec
from mask_rcnn_repro.data.embedded.textures import (
    CLOTH,
    Texture,
    fractal_noise,
    random_color,
    random_texture,
    vary,
)

MIN_VISIBLE_AREA = 36.0
"""Instances with fewer visible pixels are taken out of the picture."""

MIN_VISIBLE_SHARE = 0.2
"""Instances of which a smaller share is visible are taken out of the picture."""

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


def _extent(rng: np.random.Generator, scale: float) -> float:
    """Square root of a mask's area in pixels; scale is 1 for a short side of 160."""
    kind = rng.random()
    if kind < 0.33:
        low, high = 13.0, 31.0
    elif kind < 0.76:
        low, high = 34.0, 88.0
    else:
        low, high = 104.0, 150.0
    return _log_uniform(rng, low, high) * scale


def _object_palette(
    rng: np.random.Generator, theme: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """(4, 2, 3) colours and (4,) texture slots of main, second, dark and light tone."""
    main = vary(rng, theme[int(rng.integers(len(theme)))], 0.05)
    if rng.random() < 0.65:
        main = random_color(rng)
    contrast = rng.uniform(0.03, 0.28)
    second = vary(rng, main, 0.14) if rng.random() < 0.5 else random_color(rng)
    dark, light = main * rng.uniform(0.12, 0.4), 0.35 * main + 0.65 * 240.0
    palette = np.stack(
        [
            np.stack([main, vary(rng, main, contrast)]),
            np.stack([second, vary(rng, second, contrast)]),
            np.stack([dark, dark * 0.8]),
            np.stack([light, light * 0.93]),
        ]
    ).astype(np.float32)
    return palette, np.array([0.0, 1.0, 1.0, 1.0], dtype=np.float32)


def _textures(rng: np.random.Generator, extent: float) -> tuple[Texture, Texture]:
    return random_texture(rng, extent, CLOTH), random_texture(rng, extent, CLOTH)


def _scaled_strokes(strokes: list[Stroke], size: float) -> list[Stroke]:
    return [Stroke(s.points, s.width * size, s.strength) for s in strokes]


def _from_shape(
    rng: np.random.Generator,
    shape: Shape,
    category: str | None,
    extent: float,
    theme: list[np.ndarray],
) -> Solid:
    """Scales, turns and colours a unit shape; it stays around the origin."""
    size = extent / float(np.sqrt(shape.area))
    palette, slots = _object_palette(rng, theme)
    parts = [Part(p.polygon, p.tone, p.name, p.hole) for p in shape.parts]
    solid = Solid(
        category,
        parts,
        palette,
        slots,
        _textures(rng, extent),
        _scaled_strokes(shape.strokes, size),
        relief=float(rng.uniform(0.3, 1.0)),
    )
    if category in UPRIGHT:
        angle = rng.normal(0.0, 0.2) if rng.random() < 0.88 else rng.uniform(-np.pi, np.pi)
    elif category == "fish":
        angle = rng.normal(0.0, 0.45) if rng.random() < 0.75 else rng.uniform(-np.pi, np.pi)
    else:
        angle = rng.uniform(-np.pi, np.pi)
    mirror = -1.0 if rng.random() < 0.5 else 1.0
    # A view from aside: squeezed along a random direction.
    squeeze, tilt = rng.uniform(0.72, 1.0), rng.uniform(0.0, np.pi)
    grow = float(1.0 / np.sqrt(squeeze))
    matrix = (
        _rotation(tilt) @ np.diag([grow, grow * squeeze]) @ _rotation(-tilt) @ _rotation(angle)
    ) @ np.diag([mirror, 1.0])
    solid.transform(matrix * size, np.zeros(2))
    return solid


def _rotation(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s], [s, c]])


_SKIN_TONES = np.array(
    [[180, 205, 240], [150, 185, 225], [120, 160, 205], [85, 125, 175], [60, 90, 135], [40, 58, 85]],
    dtype=np.float32,
)


def _person_solid(rng: np.random.Generator, extent: float, theme: list[np.ndarray]) -> Solid:
    """A person of about ``extent`` squared pixels around the origin."""
    shape = make_person(rng)
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
    solid = Solid(
        "person",
        shape.parts,
        palette,
        slots,
        _textures(rng, 0.5 * extent),
        _scaled_strokes(shape.strokes, size),
        shape.keypoints,
        shape.keypoint_parts,
        shape.keypoint_hidden,
        relief=float(rng.uniform(0.3, 0.8)),
    )
    roll = rng.normal(0.0, 0.08)
    if rng.random() < 0.05:
        roll += np.pi / 2 * (1 if rng.random() < 0.5 else -1)
    solid.transform(_rotation(roll) * size, np.zeros(2))
    return solid


def make_solid(
    rng: np.random.Generator, category: str | None, extent: float, theme: list[np.ndarray]
) -> Solid:
    """A thing of a category (None: a distractor) around the origin.

    Args:
        rng: source of randomness.
        category: name of the class or None.
        extent: square root of its area in pixels.
        theme: colours of the scene, from which some things take theirs.
    """
    if category == "person":
        return _person_solid(rng, extent, theme)
    shape = OBJECTS[category](rng) if category else distractor(rng)
    return _from_shape(rng, shape, category, extent, theme)


def _place(
    rng: np.random.Generator, solid: Solid, boxes: list[np.ndarray], width: int, height: int
) -> None:
    """Moves a solid to the least crowded of a few random places and notes its box."""
    x0, y0, x1, y1 = solid.bounds()
    w, h = x1 - x0, y1 - y0
    # Things may stick out of the image by up to a quarter; what does not fit sticks out anyway.
    slack = rng.choice([0.0, 0.08, 0.3], p=[0.55, 0.25, 0.2])
    best, best_cost = np.zeros(2), np.inf
    for _ in range(int(rng.integers(2, 9))):
        spot = []
        for extent, side in ((w, width), (h, height)):
            low, high = -slack * extent, side - extent + slack * extent
            if low > high:
                low, high = 0.75 * (side - extent), 0.25 * (side - extent)
            spot.append(rng.uniform(low, high))
        cost = 0.0
        for box in boxes:
            dx = min(spot[0] + w, box[2]) - max(spot[0], box[0])
            dy = min(spot[1] + h, box[3]) - max(spot[1], box[1])
            if dx > 0 and dy > 0:
                smaller = min(w * h, (box[2] - box[0]) * (box[3] - box[1]))
                cost += dx * dy / max(smaller, 1.0)
        if cost < best_cost:
            best, best_cost = np.array(spot), cost
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


def _twigs(
    rng: np.random.Generator, width: int, height: int, theme: list[np.ndarray]
) -> Solid:
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
    palette, slots = _object_palette(rng, theme)
    return Solid(None, parts, palette, slots, _textures(rng, 40.0), relief=0.2)


def _plan(
    rng: np.random.Generator, spec: EmbeddedSpec, width: int, height: int
) -> list[Solid]:
    """The solids of a scene, placed, back to front."""
    scale = spec.short_side / 160.0
    theme = [random_color(rng) for _ in range(4)]
    empty = rng.random() < spec.empty_fraction
    crowded = not empty and rng.random() < spec.crowd_fraction
    count = 0 if empty else int(np.clip(1 + rng.poisson(spec.mean_instances - 1.0), 1, 14))
    drafts: list[tuple[float, Solid]] = []
    for _ in range(count):
        other = THING_CLASSES[int(rng.integers(1, len(THING_CLASSES)))]
        category = "person" if rng.random() < _PERSON_SHARE else other
        extent = _extent(rng, scale)
        if category == "person" and extent > 100 * scale and rng.random() < 0.6:
            extent = _log_uniform(rng, 30.0, 60.0) * scale  # close-ups of persons stay rare
        drafts.append((extent, make_solid(rng, category, extent, theme)))
    for _ in range(int(rng.poisson(2.2))):
        extent = _log_uniform(rng, 9.0, 70.0) * scale
        drafts.append((extent, make_solid(rng, None, extent, theme)))
    # Large things are put in place first and mostly stand behind the small ones.
    drafts.sort(key=lambda item: -item[0])
    boxes: list[np.ndarray] = []
    for _, solid in drafts:
        _place(rng, solid, boxes, width, height)
    order = [-np.log(extent) + rng.normal(0.0, 0.45) for extent, _ in drafts]
    solids = [drafts[k][1] for k in np.argsort(order, kind="stable")]
    if crowded:
        at = int(rng.integers(0, len(solids) + 1))
        solids[at:at] = _crowd(rng, scale, width, height, theme)
    if rng.random() < 0.13:
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
        rng: source of randomness; the picture depends on it and on the spec alone.
        spec: what kind of data set the picture is for.
    """
    width, height = image_size(rng, spec)
    image = make_background(rng, height, width)
    planned = [(s, rasterize(s, width, height)) for s in _plan(rng, spec, width, height)]
    pairs = [(s, r) for s, r in planned if r is not None]
    owner = _owner_map([r for _, r in pairs], width, height)
    seen = cv2.calcHist([owner], [0], None, [256], [0, 256])[1:, 0] / float(SS**2)
    kept = [
        (s, r)
        for k, (s, r) in enumerate(pairs)
        if s.category is None or seen[k] >= max(MIN_VISIBLE_AREA * (0.4 if s.crowd else 1.0), MIN_VISIBLE_SHARE * r.area)
    ]
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
    return Scene(_photograph(rng, image), solids, rasters, owner)


def _photograph(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Uneven light, exposure, colour cast, blur and sensor noise.

    Args:
        rng: source of randomness.
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
    level = float(rng.uniform(1.0, 6.0))
    luma = rng.standard_normal((height, width), dtype=np.float32)
    luma = np.float32(level) * luma + np.float32(0.5)  # half: the conversion below cuts off
    tint = rng.standard_normal((3, height // 2 + 1, width // 2 + 1), dtype=np.float32)
    planes = []
    for c in range(3):
        plane = image[c] * (light * np.float32(cast[c]))
        if blur > 0.35:
            plane = cv2.GaussianBlur(plane, (0, 0), blur)
        chroma = cv2.resize(tint[c], (width, height), interpolation=cv2.INTER_LINEAR)
        plane += luma + np.float32(0.7 * level) * chroma
        planes.append(np.clip(plane, 0.0, 255.0).astype(np.uint8))
    return cv2.merge(planes)
