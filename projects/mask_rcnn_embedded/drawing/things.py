"""Things: unit shapes with a size, a pose, colours and textures.

:func:`make_solid` draws the classes of the quickstart, :func:`make_object` those of all other data.
"""

from __future__ import annotations

import numpy as np

from mask_rcnn_embedded.drawing.camera import Camera, project_body
from mask_rcnn_embedded.drawing.clothes import dressed
from mask_rcnn_embedded.drawing.figures import cycle
from mask_rcnn_embedded.drawing.kinds import color_by_kind
from mask_rcnn_embedded.drawing.outlines import LYING, OUTLINES, union_area
from mask_rcnn_embedded.drawing.person import PERSON_AREA, make_person
from mask_rcnn_embedded.drawing.shapes import OBJECTS, UPRIGHT, Shape, distractor
from mask_rcnn_embedded.drawing.solid import Part, Solid, Stroke
from mask_rcnn_embedded.drawing.textures import random_color, two_textures, vary
from mask_rcnn_embedded.drawing.vehicles import VEHICLES, painted

# BGR, of the quickstart. Some things have a colour near their class's, as in nature; the rest have
# any colour, so that colour helps and shape decides. Mug and cup share theirs: only the handle
# tells them apart.
_TYPICAL_COLORS: dict[str, tuple[float, float, float]] = {
    "mug": (90.0, 90.0, 185.0),
    "cup": (90.0, 90.0, 185.0),
    "leaf": (45.0, 135.0, 75.0),
    "fish": (185.0, 140.0, 85.0),
    "star": (45.0, 185.0, 225.0),
    "cog": (120.0, 120.0, 125.0),
}
_TYPICAL_SHARE = 0.55

# Tones in the palettes of vehicles and of cycles; glass, tyres and lamps keep their colours.
_PAINT, _FRAME = (0, 1, 2, 3, 10), (0, 5)


def object_palette(
    rng: np.random.Generator, theme: list[np.ndarray], category: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(4, 2, 3) colours and (4,) texture slots of main, second, dark and light tone."""
    main = vary(rng, theme[int(rng.integers(len(theme)))], 0.05)
    if rng.random() < 0.65:
        main = random_color(rng)
    if category in _TYPICAL_COLORS and rng.random() < _TYPICAL_SHARE:
        main = vary(rng, np.array(_TYPICAL_COLORS[category], dtype=np.float32), 0.08)
    contrast = rng.uniform(0.02, 0.1)
    second = vary(rng, main, 0.14) if rng.random() < 0.75 else random_color(rng)
    dark, light = main * rng.uniform(0.12, 0.4), 0.35 * main + 0.65 * 240.0
    varied = [vary(rng, main, contrast), vary(rng, second, contrast)]
    palette = [[main, varied[0]], [second, varied[1]], [dark, dark * 0.8], [light, light * 0.93]]
    return np.array(palette, dtype=np.float32), np.array([0.0, 1.0, 1.0, 1.0], dtype=np.float32)


def from_shape(
    rng: np.random.Generator,
    shape: Shape,
    category: str | None,
    extent: float,
    theme: list[np.ndarray],
    typical: bool = False,
) -> Solid:
    """Scales, turns and colours a unit shape; it stays around the origin.

    Args:
        shape: what to draw.
        category: name of the class or None; decides how far the thing is turned.
        extent: square root of the area in pixels that it will have.
        typical: whether some things of a class have a colour that is typical of it.
    """
    size = extent / float(np.sqrt(shape.area))
    palette, slots = object_palette(rng, theme, category if typical else None)
    parts = [Part(p.polygon, p.tone, p.name, p.hole) for p in shape.parts]
    solid = Solid(
        category,
        parts,
        palette,
        slots,
        two_textures(rng, extent),
        [Stroke(s.points, s.width * size, s.strength) for s in shape.strokes],
        relief=float(rng.uniform(0.3, 1.0)),
    )
    if category in UPRIGHT or (category in OUTLINES and category not in LYING):
        angle = rng.normal(0.0, 0.2) if rng.random() < 0.92 else rng.uniform(-np.pi, np.pi)
    elif category in ("fish", "leaf"):
        angle = rng.normal(0.0, 0.35) if rng.random() < 0.85 else rng.uniform(-np.pi, np.pi)
    else:
        angle = rng.uniform(-np.pi, np.pi)
    mirror = -1.0 if rng.random() < 0.5 else 1.0
    # A view from aside: squeezed along a random direction.
    squeeze, tilt = rng.uniform(0.8, 1.0), rng.uniform(0.0, np.pi)
    grow = float(1.0 / np.sqrt(squeeze))
    matrix = (
        _rotation(tilt) @ np.diag([grow, grow * squeeze]) @ _rotation(-tilt) @ _rotation(angle)
    ) @ np.diag([mirror, 1.0])
    solid.transform(matrix * size, np.zeros(2))
    return solid


def _rotation(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s], [s, c]])


def person_solid(rng: np.random.Generator, extent: float, theme: list[np.ndarray]) -> Solid:
    """A person of about ``extent`` squared pixels around the origin."""
    solid = dressed(rng, make_person(rng), extent, theme)
    size = extent / float(np.sqrt(PERSON_AREA))
    roll = rng.normal(0.0, 0.08)
    if rng.random() < 0.05:
        roll += np.pi / 2 * (1 if rng.random() < 0.5 else -1)
    solid.transform(_rotation(roll) * size, np.zeros(2))
    return solid


def _vehicle(rng: np.random.Generator, category: str, extent: float) -> Solid:
    """A car, truck, bus or train as in the streets, from any side."""
    made = VEHICLES[category](rng)
    ahead = 0.5 * made.length + rng.uniform(3.5, 14.0)
    camera = Camera(1000, 1000, 1000.0, 500.0, rng.uniform(1.0, 3.5))
    aside = np.array([rng.normal(0.0, 0.15) * ahead, ahead])
    parts = project_body(made.layers, camera, aside, rng.uniform(-np.pi, np.pi))
    solid = painted(rng, parts, extent)
    solid.category = category
    return solid


def make_object(
    rng: np.random.Generator, category: str | None, extent: float, theme: list[np.ndarray]
) -> list[Solid]:
    """A thing of any class (None: a distractor), around the origin.

    Args:
        category: name of the class or None.
        extent: square root of its area in pixels.

    Returns:
        One solid; two if a person rides a bicycle or a motorcycle, the rider last.
    """
    if category == "person":
        return [person_solid(rng, extent, theme)]
    if category in VEHICLES or category in ("bicycle", "motorcycle"):
        if category in VEHICLES:
            solids = [_vehicle(rng, category, extent)]
        else:
            yaw, ridden = rng.uniform(-np.pi, np.pi), rng.random() < 0.3
            if rng.random() < 0.5:  # from the side, where most of it is seen
                yaw = rng.choice([-0.5, 0.5]) * np.pi + rng.normal(0.0, 0.3)
            solids = cycle(rng, category, np.zeros(2), extent, float(yaw), ridden, theme)
        size = extent / np.sqrt(union_area(solids[0].parts))
        x0, y0, x1, y1 = solids[0].bounds()
        turn = _rotation(rng.normal(0.0, 0.06)) * size
        for solid in solids:
            solid.transform(turn, -turn @ np.array([0.5 * (x0 + x1), 0.5 * (y0 + y1)]))
            solid.category = "person" if solid.category == "rider" else category
        color_by_kind(rng, solids[0], _PAINT if category in VEHICLES else _FRAME)
        return solids
    if category is None:
        shape = distractor(rng)
    else:
        shape = (OUTLINES.get(category) or OBJECTS[category])(rng)
    solid = from_shape(rng, shape, category, extent, theme)
    color_by_kind(rng, solid, range(len(solid.palette)))
    return [solid]


def make_solid(
    rng: np.random.Generator, category: str | None, extent: float, theme: list[np.ndarray]
) -> Solid:
    """A thing of a category (None: a distractor) around the origin.

    Args:
        category: name of the class or None.
        extent: square root of its area in pixels.
    """
    if category == "person":
        return person_solid(rng, extent, theme)
    shape = OBJECTS[category](rng) if category else distractor(rng)
    return from_shape(rng, shape, category, extent, theme, typical=True)
