"""Cars, trucks, buses and trains as bodies of boxes; form tells them apart, colours are free.

Body frame in metres (x forward, y left, z up) with the origin on the ground below the middle.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

from mask_rcnn_embedded.drawing.camera import Face, Layer, box, shear_top, wheel
from mask_rcnn_embedded.drawing.solid import Part, Solid
from mask_rcnn_embedded.drawing.textures import random_color, two_textures, vary

# Rows of a vehicle's palette.
BODY, SHADE, ROOF, SECOND, GLASS, DARK, HUB, LAMP, RED, PLATE, BAND = range(11)

_BODY_TONES = (BODY, SHADE, ROOF)
_CARGO_TONES = (SECOND, BAND, ROOF)


@dataclasses.dataclass
class Vehicle:
    """A body with its size.

    Args:
        layers: see :func:`~mask_rcnn_embedded.drawing.camera.project_body`.
        length: metres.
        width: metres.
        height: metres.
    """

    layers: list[Layer]
    length: float
    width: float
    height: float


def vehicle_palette(rng: np.random.Generator) -> np.ndarray:
    """(11, 2, 3) BGR: paint of any colour; glass, tyres and lamps as they are."""
    paint = random_color(rng)
    if rng.random() < 0.45:  # white, silver, grey and black are common
        paint = np.full(3, rng.uniform(25.0, 235.0), dtype=np.float32) + rng.normal(0.0, 5.0, 3)
    second = random_color(rng) if rng.random() < 0.6 else vary(rng, paint, 0.12)
    glass = np.array([62.0, 54.0, 46.0]) * rng.uniform(0.7, 1.5)
    colors = [
        paint,
        paint * 0.82,
        np.minimum(paint * 1.1 + 12.0, 250.0),
        second,
        glass,
        np.full(3, rng.uniform(22.0, 40.0)),
        np.full(3, rng.uniform(110.0, 190.0)),
        np.array([225.0, 240.0, 250.0]),
        np.array([35.0, 35.0, rng.uniform(150.0, 225.0)]),
        np.array([215.0, 225.0, 230.0]),
        second * 0.8,
    ]
    palette = [np.stack([c, np.clip(c * 0.93 + 4.0, 0, 255)]) for c in colors]
    return np.clip(np.stack(palette), 3.0, 252.0).astype(np.float32)


def painted(rng: np.random.Generator, parts: list[Part], extent: float) -> Solid:
    """A vehicle of projected parts with its paint.

    Args:
        parts: from :func:`~mask_rcnn_embedded.drawing.camera.project_body`.
        extent: its size in pixels.
    """
    palette = vehicle_palette(rng)
    return Solid(
        None,
        parts,
        palette,
        np.zeros(len(palette), dtype=np.float32),
        two_textures(rng, extent),
        relief=float(rng.uniform(0.05, 0.3)),
        seams=float(rng.uniform(0.0, 0.15)),
    )


def _wheels(places: list[float], half: float, radius: float) -> list[Face]:
    return [wheel(x, y, radius, (DARK, HUB)) for x in places for y in (half, -half)]


def _underside(length: float, half: float, top: float) -> list[Face]:
    return list(box(-0.46 * length, 0.46 * length, 0.86 * half, 0.08, top, (DARK,) * 3).values())


def _face_of_road(body: dict[str, Face], low: float, high: float) -> None:
    """Lamps, grille and plates; ``low`` and ``high`` are shares of the height of the lamps."""
    front, back = body["front"], body["back"]
    front.patch(0.28, 0.72, low, high, DARK)
    for side in (0.05, 0.76):
        front.patch(side, side + 0.19, low, high, LAMP)
        back.patch(side, side + 0.19, low + 0.05, high + 0.05, RED)
    for face in (front, back):
        face.patch(0.38, 0.62, low - 0.28, low - 0.08, PLATE)


def car(rng: np.random.Generator) -> Vehicle:
    """Low, with a cabin that is narrower than the body: saloon, hatchback, estate or van."""
    kind = rng.choice(["saloon", "hatch", "estate", "van"], p=[0.35, 0.33, 0.2, 0.12])
    length = {"saloon": 4.6, "hatch": 3.9, "estate": 4.6, "van": 4.5}[kind] * rng.uniform(
        0.95, 1.05
    )
    width = rng.uniform(1.7, 1.85)
    height = rng.uniform(1.4, 1.52) + (0.4 if kind == "van" else 0.0)
    half, waist = width / 2, 0.6 * height
    body = box(-length / 2, length / 2, half, 0.22, waist, _BODY_TONES)
    shear_top(body, 0.03 * length, -0.04 * length, 0.95)
    _face_of_road(body, 0.52, 0.82)
    for side in ("left", "right"):
        body[side].patch(0.0, 1.0, 0.0, 0.12, DARK)
    # Share of the length where the cabin begins and ends at the waist, and by how much it leans.
    rear, front, lean_rear, lean_front = {
        "saloon": (-0.36, 0.2, 0.11, -0.15),
        "hatch": (-0.47, 0.19, 0.06, -0.17),
        "estate": (-0.48, 0.2, 0.04, -0.15),
        "van": (-0.48, 0.36, 0.02, -0.14),
    }[kind]
    cabin = box(rear * length, front * length, 0.93 * half, waist, height, _BODY_TONES)
    shear_top(cabin, lean_rear * length, lean_front * length, 0.82)
    cabin["front"].patch(0.06, 0.94, 0.08, 0.92, GLASS)
    cabin["back"].patch(0.08, 0.92, 0.15, 0.88, GLASS)
    pillar = rng.uniform(0.42, 0.55)
    for side in ("left", "right"):
        split = pillar if side == "right" else 1.0 - pillar
        cabin[side].patch(0.06, split - 0.02, 0.1, 0.88, GLASS)
        cabin[side].patch(split + 0.02, 0.94, 0.1, 0.88, GLASS)
    radius = rng.uniform(0.3, 0.34)
    wheels = _wheels([-0.3 * length, 0.32 * length], half * 1.01, radius)
    layers = [[_underside(length, half, 0.3)], [list(body.values())], [wheels]]
    layers.append([list(cabin.values())])
    return Vehicle(layers, length, width, height)


def truck(rng: np.random.Generator) -> Vehicle:
    """A cab with a windscreen and, behind a gap, a cargo body without windows."""
    length, width = rng.uniform(6.5, 9.0), rng.uniform(2.3, 2.5)
    half, cab_length = width / 2, rng.uniform(1.7, 2.1)
    cab_height, height = rng.uniform(2.5, 2.9), rng.uniform(3.1, 3.7)
    start = length / 2 - cab_length
    cab = box(start, length / 2, half * 0.95, 0.45, cab_height, _BODY_TONES)
    shear_top(cab, 0.0, -rng.uniform(0.1, 0.35), 0.97)
    cab["front"].patch(0.07, 0.93, 0.5, 0.88, GLASS)
    cab["front"].patch(0.25, 0.75, 0.16, 0.38, DARK)
    for x in (0.04, 0.78):
        cab["front"].patch(x, x + 0.18, 0.1, 0.24, LAMP)
    cab["left"].patch(0.1, 0.62, 0.52, 0.86, GLASS)
    cab["right"].patch(0.38, 0.9, 0.52, 0.86, GLASS)
    style = rng.choice(["box", "tarpaulin", "tipper"], p=[0.45, 0.3, 0.25])
    top = height if style != "tipper" else rng.uniform(1.9, 2.3)
    cargo = box(-length / 2, start - 0.25, half, 0.95, top, _CARGO_TONES)
    for side in ("left", "right"):
        if style == "box":
            cargo[side].patch(0.2, 0.75, 0.35, 0.65, BODY)  # a company's emblem
        for k in np.linspace(0.0, 0.96, 7) if style != "box" else ():
            cargo[side].patch(k, k + 0.025, 0.0, 1.0, BAND)
        cargo[side].patch(0.0, 1.0, 0.0, 0.05, DARK)
    cargo["back"].patch(0.49, 0.51, 0.0, 1.0, DARK)
    for x in (0.03, 0.85):
        cargo["back"].patch(x, x + 0.12, 0.02, 0.09, RED)
    radius = rng.uniform(0.45, 0.52)
    places = [start + 0.5 * cab_length, -0.36 * length]
    if length > 7.5:
        places.append(-0.36 * length + 2.2 * radius)
    wheels = _wheels(places, half * 0.98, radius)
    chassis = _underside(length, half, 0.98)
    layers = [[chassis], [wheels], [list(cab.values()), list(cargo.values())]]
    return Vehicle(layers, length, width, max(height if style != "tipper" else top, cab_height))


def bus(rng: np.random.Generator) -> Vehicle:
    """One long box on wheels with a row of large windows, doors and a lit destination board."""
    length, width = rng.uniform(9.5, 12.0), 2.5
    half, height = width / 2, rng.uniform(2.9, 3.2)
    body = box(-length / 2, length / 2, half, 0.32, height, _BODY_TONES)
    front, back = body["front"], body["back"]
    front.patch(0.05, 0.95, 0.32, 0.8, GLASS)
    front.patch(0.14, 0.86, 0.83, 0.95, DARK)
    front.patch(0.2, 0.72, 0.85, 0.93, PLATE)
    for x in (0.05, 0.8):
        front.patch(x, x + 0.15, 0.09, 0.19, LAMP)
        back.patch(x, x + 0.1, 0.1, 0.36, RED)
    back.patch(0.14, 0.86, 0.52, 0.84, GLASS)
    back.patch(0.2, 0.8, 0.12, 0.34, DARK)
    count = int(rng.integers(5, 8))
    for side in ("left", "right"):
        if rng.random() < 0.6:
            body[side].patch(0.0, 1.0, 0.08, rng.uniform(0.2, 0.34), SECOND)
        edges = np.linspace(0.02, 0.98, count + 1)
        for a, b in itertools.pairwise(edges):
            body[side].patch(a + 0.008, b - 0.008, 0.42, 0.82, GLASS)
        if side == "right":  # doors
            for k in (0, count // 2):
                b = edges[count - k]
                body[side].patch(b - 0.1, b - 0.01, 0.03, 0.82, GLASS)
                body[side].patch(b - 0.058, b - 0.052, 0.03, 0.82, DARK)
    wheels = _wheels([-0.26 * length, 0.3 * length], half * 1.0, rng.uniform(0.46, 0.5))
    layers = [[_underside(length, half, 0.4)], [list(body.values())], [wheels]]
    return Vehicle(layers, length, width, height)


def _tram_side(face: Face, stripe: float) -> None:
    """Skirt, coloured stripe and a band of windows."""
    face.patch(0.0, 1.0, 0.0, 0.08, DARK)
    face.patch(0.0, 1.0, stripe, stripe + 0.1, SECOND)
    face.patch(0.02, 0.98, 0.46, 0.8, GLASS)


def _tram_nose(
    ends: tuple[float, float], half: float, height: float, slope: float, end: str, stripe: float
) -> list[Face]:
    """The driver's cab, ``front`` or ``back``: narrower at the end and sloping."""
    body = box(*ends, half, 0.18, height, _BODY_TONES)
    forward = -slope if end == "front" else slope
    shear_top(body, *((0.0, forward) if end == "front" else (forward, 0.0)), 0.92)
    tip = ends[1] if end == "front" else ends[0]
    for face in body.values():
        for point in face.points:
            if abs(point[0] - tip) <= slope + 1e-9:
                point[1] *= 0.82
    for side in ("left", "right"):
        _tram_side(body[side], stripe)
    face = body[end]
    face.patch(0.07, 0.93, 0.4, 0.82, GLASS)
    face.patch(0.3, 0.7, 0.85, 0.95, PLATE)
    face.patch(0.0, 1.0, 0.0, 0.1, DARK)
    face.patch(0.0, 1.0, 0.12, 0.22, SECOND)
    for x in (0.08, 0.78):
        face.patch(x, x + 0.14, 0.25, 0.32, LAMP if end == "front" else RED)
    return list(body.values())


def train(rng: np.random.Generator) -> Vehicle:
    """A tram of two or three articulated cars: no wheels to be seen, a pantograph on the roof."""
    cars = int(rng.integers(2, 4))
    part, width = rng.uniform(6.5, 8.5), 2.5
    length, half, height = cars * part, width / 2, rng.uniform(3.2, 3.5)
    blocks: list[list[Face]] = []
    gaps: list[list[Face]] = []
    stripe = rng.uniform(0.1, 0.35)
    slope, nose = rng.uniform(0.3, 0.9), 1.3
    for k in range(cars):
        x0, x1 = -length / 2 + k * part, -length / 2 + (k + 1) * part
        first, last = k == 0, k == cars - 1
        rear, front = x0 + (nose if first else 0.3), x1 - (nose if last else 0.3)
        body = box(rear, front, half, 0.18, height, _BODY_TONES)
        shear_top(body, 0.0, 0.0, 0.92)
        for side in ("left", "right"):
            _tram_side(body[side], stripe)
            for x in np.linspace(0.2, 0.8, 3):
                body[side].patch(x - 0.008, x + 0.008, 0.46, 0.8, BODY)
            body[side].patch(0.42, 0.58, 0.06, 0.82, BAND)
            body[side].patch(0.435, 0.493, 0.1, 0.78, GLASS)
            body[side].patch(0.507, 0.565, 0.1, 0.78, GLASS)
        for end, shown in (("front", last), ("back", first)):
            if shown:
                ends = (front, x1) if end == "front" else (x0, rear)
                blocks.append(_tram_nose(ends, half, height, slope, end, stripe))
        blocks.append(list(body.values()))
        if not last:
            bellows = box(x1 - 0.35, x1 + 0.35, 0.9 * half, 0.25, 0.96 * height, (DARK,) * 3)
            gaps.append(list(bellows.values()))
    roof: list[Face] = []
    middle = rng.uniform(-0.2, 0.2) * length
    gear = box(middle - 1.4, middle + 1.4, 0.5 * half, height, height + 0.28, (HUB,) * 3)
    roof += list(gear.values())
    # The pantograph: two bent arms and a bar across, as thin boxes.
    knee = box(middle - 0.9, middle - 0.75, 0.07, height + 0.2, height + 0.85, (DARK,) * 3)
    shear_top(knee, 0.8, 0.8)
    bar = box(middle - 0.1, middle + 0.05, 0.75, height + 0.82, height + 0.95, (DARK,) * 3)
    layers = [[_underside(length, half, 0.3)], gaps + blocks]
    layers += [[roof], [list(knee.values())], [list(bar.values())]]
    return Vehicle(layers, length, width, height + 0.95)


VEHICLES = {"car": car, "truck": truck, "bus": bus, "train": train}
"""Functions by class name."""
