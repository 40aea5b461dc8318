"""The street without traffic: sky, ground, buildings, trees, poles, signs and lights.

World frame as in :mod:`mask_rcnn_embedded.drawing.camera` (metres).
"""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

from mask_rcnn_embedded.drawing.camera import Camera, box, project_body
from mask_rcnn_embedded.drawing.solid import Part, Solid, ellipse
from mask_rcnn_embedded.drawing.textures import fractal_noise, random_color, random_texture, vary

_PLASTER = ("cloud", "rough", "grain", "cloud", "rough", "grain", "marble", "brick", "plank")
"""Textures of walls and ground; patterns are rare in a street."""

FAR_AWAY = 400.0
"""Where the ground ends, in metres ahead."""


@dataclasses.dataclass
class Element:
    """A piece of the street or a thing on it.

    Args:
        label: Cityscapes' label, ``...group`` for members of a group; None: not annotated apart
            from what it lies on.
        solid: how it looks.
        footprint: x0, y0, x1, y1 on the ground in metres, which decides what hides what.
        unit: elements of one unit stay or go together (a bicycle and its rider).
        group: members of one group share this number and one polygon; 0: no group.
    """

    label: str | None
    solid: Solid
    footprint: tuple[float, float, float, float]
    unit: int = 0
    group: int = 0


@dataclasses.dataclass(frozen=True)
class Street:
    """The cross section of a street: X of its borders in metres, and a crossing ahead.

    Args:
        facade_left: front of the buildings on the left.
        kerb_left: left border of the road.
        centre: line between the directions.
        lane_right: right border of the own lane, where the parking lane begins.
        kerb_right: right border of the parking lane.
        facade_right: front of the buildings on the right.
        crossing: distance ahead of the middle of a crossing street, or None.
    """

    facade_left: float
    kerb_left: float
    centre: float
    lane_right: float
    kerb_right: float
    facade_right: float
    crossing: float | None


CROSSING_HALF = 4.0
"""Half width of a crossing street in metres."""


def make_street(rng: np.random.Generator, reach: float) -> Street:
    """A random street.

    Args:
        reach: distance in metres up to which persons are large enough to be labelled.
    """
    lane = rng.uniform(3.1, 3.6)
    right = 0.5 * lane + rng.uniform(-0.2, 0.3)
    parking = rng.uniform(2.1, 2.5)
    left = right - 2.0 * lane - (parking if rng.random() < 0.5 else 0.0)
    # Not so close that a single bus fills the picture, however coarse it is.
    ahead = rng.uniform(0.42, 0.62) * max(reach, 26.0) + CROSSING_HALF
    crossing = ahead if rng.random() < 0.5 else None
    return Street(
        facade_left=left - rng.uniform(2.2, 4.5),
        kerb_left=left,
        centre=right - lane,
        lane_right=right,
        kerb_right=right + parking,
        facade_right=right + parking + rng.uniform(2.2, 4.5),
        crossing=crossing,
    )


def plain(
    rng: np.random.Generator, color: np.ndarray, parts: list[Part], size: float, contrast: float
) -> Solid:
    """A solid of one colour (tone 0, tone 1 darker, tone 2 glass) with a texture."""
    texture = random_texture(rng, size, _PLASTER)
    glass = np.array([70.0, 62.0, 55.0]) * rng.uniform(0.6, 1.6)
    palette = np.array(
        [[color, vary(rng, color, contrast)], [color * 0.72, color * 0.66], [glass, glass * 1.25]]
    )
    return Solid(
        None,
        parts,
        np.clip(palette, 3, 252).astype(np.float32),
        np.zeros(3, dtype=np.float32),
        (texture, texture),
        relief=0.1,
    )


def quad(camera: Camera, x0: float, x1: float, y0: float, y1: float, height: float = 0.0) -> (
    np.ndarray
):  # fmt: skip
    """Image of a rectangle on the ground, (4, 2)."""
    corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    return camera.project(np.array([(x, y, height) for x, y in corners]))


def paint_sky(rng: np.random.Generator, camera: Camera) -> np.ndarray:
    """(3, H, W) float32: bright towards the horizon, with clouds."""
    height, width = camera.height, camera.width
    overcast = rng.random() < 0.4
    top = np.array([205.0, 180.0, 150.0]) if not overcast else np.array([205.0, 203.0, 200.0])
    top = vary(rng, top.astype(np.float32), 0.04)
    haze = vary(rng, np.array([232.0, 230.0, 226.0], dtype=np.float32), 0.02)
    t = np.clip(np.arange(height, dtype=np.float32) / max(camera.horizon, 1.0), 0, 1)
    image = top[:, None, None] + (haze - top)[:, None, None] * t[None, :, None]
    image = np.repeat(image.astype(np.float32), width, axis=2)
    clouds = fractal_noise(rng, height, width, 1, octaves=5, stretch=2.0)
    return image + (np.float32(245.0) - image) * np.clip(clouds * 0.4, 0.0, 0.8)


def ground(rng: np.random.Generator, camera: Camera, street: Street) -> list[Element]:
    """Terrain, pavements, road, parking lane and markings, in the order of drawing."""
    w = 3.0 * FAR_AWAY
    grey = rng.uniform(85.0, 130.0)
    asphalt = np.array([grey, grey, grey], dtype=np.float32) + rng.normal(0.0, 3.0, 3)
    paving = vary(rng, np.array([150.0, 155.0, 160.0], dtype=np.float32), 0.07)
    everything = (-w, 0.0, w, FAR_AWAY)
    size = 0.6 * camera.height

    def slab(label: str | None, x0: float, x1: float, color: np.ndarray, contrast: float) -> None:
        shape = [Part(quad(camera, x0, x1, 0.0, FAR_AWAY))]
        elements.append(Element(label, plain(rng, color, shape, size, contrast), everything))

    elements: list[Element] = []
    meadow = vary(rng, np.array([75.0, 130.0, 110.0], dtype=np.float32), 0.06)
    slab("terrain", -w, w, meadow, 0.06)
    slab("sidewalk", street.facade_left, street.facade_right, paving, 0.06)
    if street.crossing is not None:
        near, far = street.crossing - CROSSING_HALF, street.crossing + CROSSING_HALF
        for label, margin, color in (("sidewalk", 2.0, paving), ("road", 0.0, asphalt)):
            shape = [Part(quad(camera, -w, w, near - margin, far + margin))]
            elements.append(Element(label, plain(rng, color, shape, size, 0.03), everything))
    slab("road", street.kerb_left, street.kerb_right, asphalt, 0.03)
    if rng.random() < 0.5:
        slab("parking", street.lane_right, street.kerb_right, asphalt * 1.08, 0.04)
        if street.crossing is not None:
            shape = [Part(quad(camera, street.lane_right, street.kerb_right, near, far))]
            elements.append(Element("road", plain(rng, asphalt, shape, size, 0.03), everything))
    marks: list[Part] = []
    for k in range(14):
        start = 2.0 + 7.0 * k
        if street.crossing is None or not near - 3.5 < start < far + 1.0:
            marks.append(
                Part(quad(camera, street.centre - 0.08, street.centre + 0.08, start, start + 3.2))
            )
    for edge in (street.kerb_left + 0.1, street.lane_right):
        marks.append(Part(quad(camera, edge - 0.06, edge + 0.06, 0.5, FAR_AWAY)))
    if street.crossing is not None and rng.random() < 0.7:  # a zebra crossing
        for x in np.arange(street.kerb_left + 0.3, street.kerb_right - 0.5, 1.0):
            marks.append(Part(quad(camera, x, x + 0.5, near - 3.0, near - 0.6)))
    paint = np.full(3, rng.uniform(190.0, 230.0), dtype=np.float32)
    elements.append(Element(None, plain(rng, paint, marks, size, 0.05), everything))
    return elements


def rails(
    rng: np.random.Generator, camera: Camera, x: float | None, ahead: float | None
) -> list[Element]:
    """A rail track: along the road at ``x``, or across it at distance ``ahead``."""
    w = 3.0 * FAR_AWAY

    def band(low: float, high: float) -> np.ndarray:
        if x is not None:
            return quad(camera, x + low, x + high, 0.0, FAR_AWAY)
        assert ahead is not None
        return quad(camera, -w, w, ahead + low, ahead + high)

    bed = vary(rng, np.array([95.0, 100.0, 108.0], dtype=np.float32), 0.04)
    track = plain(rng, bed, [Part(band(-1.2, 1.2))], 0.3 * camera.height, 0.06)
    lines = [Part(band(s * 0.72 - 0.07, s * 0.72 + 0.07)) for s in (-1.0, 1.0)]
    steel = plain(rng, np.full(3, 70.0, np.float32), lines, 10.0, 0.02)
    everything = (-w, 0.0, w, FAR_AWAY)
    return [Element("rail track", track, everything), Element(None, steel, everything)]


def _building(
    rng: np.random.Generator, camera: Camera, x: float, side: float, near: float, far: float
) -> Element:
    """A house with rows of windows; ``side`` is 1 on the right of the street, -1 on the left."""
    storeys = int(rng.integers(2, 6))
    height, depth = 3.1 * storeys + rng.uniform(0.5, 2.5), 10.0
    body = box(-0.5 * (far - near), 0.5 * (far - near), 0.5 * depth, 0.0, height, (0, 1, 1))
    street_side = body["left"] if side > 0 else body["right"]
    columns = max(2, round((far - near) / 3.2))
    wide = rng.uniform(0.35, 0.6)
    for row in range(storeys):
        low = (0.9 + 3.1 * row) / height
        tall = (1.6 if row else 2.0) / height
        low = low if row else 0.25 / height
        for column in range(columns):
            a = (column + 0.5 - 0.5 * wide) / columns
            street_side.patch(a, a + wide / columns, low, low + tall, 2)
    for row in range(storeys):
        for column in range(3):
            a = (column + 0.3) / 3
            body["back"].patch(
                a, a + 0.13, (1.0 + 3.1 * row) / height, (2.5 + 3.1 * row) / height, 2
            )
    centre = np.array([x + side * 0.5 * depth, 0.5 * (near + far)])
    parts = project_body([[list(body.values())]], camera, centre, 0.0)
    color = vary(rng, 0.6 * random_color(rng) + 0.4 * 165.0, 0.03)
    color = 0.5 * color + 0.5 * np.mean(color)  # plaster is not vivid
    solid = plain(rng, color.astype(np.float32), parts, 0.5 * camera.height, 0.07)
    outer = x + side * depth
    return Element("building", solid, (min(x, outer), near, max(x, outer), far))


def _tree(rng: np.random.Generator, camera: Camera, x: float, ahead: float) -> list[Element]:
    """A trunk and a crown of leaves; a bush has no trunk."""
    scale, foot = camera.scale(ahead), camera.ground(x, ahead)
    bush = rng.random() < 0.25
    radius = rng.uniform(0.5, 0.9) if bush else rng.uniform(1.1, 2.2)
    middle = radius * 0.8 if bush else rng.uniform(2.2, 3.2) + radius
    t = np.linspace(0.0, 2.0 * np.pi, 40, endpoint=False)
    lobes = 1.0 + sum(
        rng.normal(0, 0.07) * np.cos(k * t + rng.uniform(0, 6.3)) for k in (2, 3, 5, 7, 11)
    )
    crown = np.stack([radius * lobes * np.cos(t), -middle + radius * lobes * np.sin(t)], axis=1)
    crown[:, 1] = np.minimum(crown[:, 1], 0.0)
    green = vary(rng, np.array([55.0, 105.0, 80.0], dtype=np.float32), 0.06)
    leaves = plain(rng, green, [Part(foot + (crown * scale).astype(np.float32))], scale, 0.05)
    leaves.palette[0, 1] = leaves.palette[0, 0] * 0.6
    leaves.textures = (random_texture(rng, 0.6 * scale, ("rough", "blotch", "grain")),) * 2
    leaves.relief = 0.9
    spot = (x - 0.3, ahead - 0.3, x + 0.3, ahead + 0.3)
    elements = [Element("vegetation", leaves, spot)]
    if not bush:
        half = rng.uniform(0.1, 0.18)
        trunk = np.array([[-half, 0], [half, 0], [0.7 * half, -middle], [-0.7 * half, -middle]])
        wood = vary(rng, np.array([60.0, 75.0, 90.0], dtype=np.float32), 0.04)
        shape = [Part(foot + (trunk * scale).astype(np.float32))]
        elements.insert(0, Element("vegetation", plain(rng, wood, shape, scale, 0.06), spot))
    return elements


def _post(rng: np.random.Generator, camera: Camera, x: float, ahead: float) -> list[Element]:
    """A pole, alone or with a traffic sign or a traffic light."""
    scale, foot = camera.scale(ahead), camera.ground(x, ahead)
    kind = rng.choice(["lamp", "sign", "light"], p=[0.35, 0.4, 0.25])
    height = rng.uniform(5.0, 8.0) if kind == "lamp" else rng.uniform(2.4, 3.2)
    half = rng.uniform(0.05, 0.09)
    spot = (x - 0.2, ahead - 0.2, x + 0.2, ahead + 0.2)

    def element(label: str, color: np.ndarray, points: np.ndarray, up: float) -> Element:
        outline = foot + ((points + np.array([0.0, -up])) * scale).astype(np.float32)
        return Element(label, plain(rng, color, [Part(outline)], scale, 0.03), spot)

    steel = np.full(3, rng.uniform(60.0, 150.0), dtype=np.float32)
    shaft = np.array([[-half, 0], [half, 0], [0.8 * half, -height], [-0.8 * half, -height]])
    elements = [element("pole", steel, shaft, 0.0)]
    if kind == "lamp":
        reach = -np.sign(x) * rng.uniform(0.8, 1.6)
        arm = np.array([[0, 0], [reach, -0.1], [reach, 0.1], [0, 0.12]])
        elements.append(element("pole", steel, arm, height))
    elif kind == "sign":
        corners = int(rng.choice([3, 4, 20]))
        board = ellipse((0.0, 0.0), (0.36, 0.36), float(rng.choice([0.5, -0.5]) * np.pi), corners)
        if corners == 4:
            board = ellipse((0.0, 0.0), (0.42, 0.42), np.pi / 4, 4)
        color = [(40, 40, 200), (190, 90, 30), (60, 190, 225)][int(rng.integers(3))]
        sign = element("traffic sign", np.array(color, np.float32), board, height - 0.2)
        inner = sign.solid.parts[0].polygon
        middle = inner.mean(axis=0)
        sign.solid.parts.append(Part(middle + 0.6 * (inner - middle), 1))
        sign.solid.palette[1] = 235.0
        elements.append(sign)
    else:
        case = np.array([[-0.16, -0.5], [0.16, -0.5], [0.16, 0.5], [-0.16, 0.5]])
        lit = int(rng.integers(3))
        light = element("traffic light", np.full(3, 28.0, np.float32), case, height)
        lamp = ellipse((0.0, 0.3 * (lit - 1)), (0.11, 0.11), n=10)
        light.solid.parts.append(Part(foot + ((lamp - [0.0, height]) * scale), 2))
        glow = [(50, 50, 235), (40, 190, 240), (110, 220, 60)][lit]
        light.solid.palette[2] = np.array(glow, np.float32)
        elements.append(light)
    return elements


def furniture(
    rng: np.random.Generator, camera: Camera, street: Street, reach: float
) -> list[Element]:
    """Buildings, trees, posts and boxes beside the road, in no order."""
    elements: list[Element] = []
    for side, facade in ((-1.0, street.facade_left), (1.0, street.facade_right)):
        near = rng.uniform(-4.0, 2.0)
        while near < 110.0:
            far = near + rng.uniform(9.0, 18.0)
            if (
                street.crossing is not None
                and far > street.crossing - 6.0
                and near < street.crossing
            ):
                far = street.crossing - 6.0
                if far - near > 3.0 and far > 3.0:
                    elements.append(_building(rng, camera, facade, side, near, far))
                near = street.crossing + 6.0
                continue
            if rng.random() < 0.86 and far > 3.0:
                elements.append(_building(rng, camera, facade, side, near, far))
            elif far > 6.0:  # a gap with trees
                for _ in range(3):
                    x = facade + side * rng.uniform(0.5, 5.0)
                    elements += _tree(rng, camera, x, max(3.0, rng.uniform(near, far)))
            near = far
    for side, kerb in ((-1.0, street.kerb_left), (1.0, street.kerb_right)):
        step, ahead = rng.uniform(6.0, 14.0), rng.uniform(5.0, 12.0)
        trees = rng.random() < 0.55
        while ahead < 2.2 * reach:
            x = kerb + side * rng.uniform(0.3, 0.7)
            clear = street.crossing is None or abs(ahead - street.crossing) > CROSSING_HALF + 1.0
            if clear:
                leafy = trees and rng.random() < 0.6
                elements += (_tree if leafy else _post)(rng, camera, x, ahead)
            ahead += step * rng.uniform(0.7, 1.3)
        if rng.random() < 0.4:  # a bin or a box
            ahead = rng.uniform(0.3, 0.9) * reach
            x = kerb + side * 1.2
            body = box(-0.4, 0.4, 0.4, 0.0, rng.uniform(0.8, 1.3), (0, 1, 1))
            parts = project_body([[list(body.values())]], camera, np.array([x, ahead]), 0.0)
            if parts:
                thing = plain(rng, random_color(rng), parts, camera.scale(ahead), 0.05)
                spot = (x - 0.4, ahead - 0.4, x + 0.4, ahead + 0.4)
                elements.append(Element("static", thing, spot))
    return elements


def skyline(rng: np.random.Generator, camera: Camera) -> Element:
    """Trees and hills where the street ends."""
    u = np.linspace(-5.0, camera.width + 5.0, 60)
    ridge = fractal_noise(rng, 1, 60, 1, octaves=5)[0, 0]
    height = camera.height * (rng.uniform(0.03, 0.09) + 0.02 * ridge)
    top = np.stack([u, camera.horizon - np.maximum(height, 1.0)], axis=1)
    low = np.array([[camera.width + 5.0, camera.horizon + 2.0], [-5.0, camera.horizon + 2.0]])
    green = vary(rng, np.array([120.0, 140.0, 125.0], dtype=np.float32), 0.05)
    shape = [Part(np.concatenate([top, low]).astype(np.float32))]
    solid = plain(rng, green, shape, 0.2 * camera.height, 0.08)
    return Element("vegetation", solid, (-1e3, FAR_AWAY, 1e3, FAR_AWAY))


def cast_ground_shadow(
    image: np.ndarray, camera: Camera, footprint: tuple[float, float, float, float], dark: float
) -> None:
    """Darkens the ground below a thing, in place."""
    x0, y0, x1, y1 = footprint
    points = quad(camera, x0 - 0.1, x1 + 0.1, max(y0 - 0.15, 1.6), y1 + 0.15)
    low = np.floor(points.min(axis=0)).astype(int) - 8
    high = np.ceil(points.max(axis=0)).astype(int) + 8
    left, top = max(0, low[0]), max(0, low[1])
    right, bottom = min(camera.width, high[0]), min(camera.height, high[1])
    if right <= left or bottom <= top:
        return
    mask = np.zeros((bottom - top, right - left), dtype=np.uint8)
    fixed = np.round((np.clip(points, -4e3, 4e3) - [left, top] - 0.5) * 16).astype(np.int32)
    cv2.fillPoly(mask, [fixed], 255, cv2.LINE_AA, 4)
    soft = cv2.GaussianBlur(mask, (0, 0), max(0.7, 0.1 * float(np.ptp(points[:, 1]))))
    amount = soft.astype(np.float32) * np.float32(dark / 255.0)
    image[:, top:bottom, left:right] *= np.float32(1.0) - amount
