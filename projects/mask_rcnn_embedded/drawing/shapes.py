"""Outlines of the six object classes and of the distractors.

Every function returns a :class:`Shape` of about unit size around the origin (x right, y down).
Mug and cup differ in the handle alone, leaf and fish share their spindle, star and cog their
radial outline: colour and texture are drawn independently of the class.

Tones: 0 main, 1 second, 2 dark, 3 light.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from mask_rcnn_embedded.drawing.solid import Part, Stroke, ellipse


@dataclasses.dataclass
class Shape:
    """An outline in unit coordinates.

    Args:
        parts: pieces back to front.
        strokes: lines on the surface; their widths are in unit coordinates too.
        area: about the area of the union of the parts.
    """

    parts: list[Part]
    strokes: list[Stroke]
    area: float


def polygon_area(points: np.ndarray) -> float:
    """Area of a simple polygon (n, 2)."""
    x, y = points[:, 0], points[:, 1]
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2.0)


def _polar(radius: np.ndarray | float, angle: np.ndarray) -> np.ndarray:
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).astype(np.float32)


def star(rng: np.random.Generator) -> Shape:
    """Five points, sharp; often with facets."""
    inner = rng.uniform(0.19, 0.27)
    angle = np.arange(10) * np.pi / 5 - np.pi / 2 + rng.normal(0.0, 0.03, 10)
    radius = np.where(np.arange(10) % 2 == 0, 0.5, inner) * rng.normal(1.0, 0.035, 10)
    outline = _polar(radius, angle)
    parts, strokes = [Part(outline, 0)], []
    style = rng.random()
    if style < 0.45:  # facets: the half of each point that turns from the light
        for k in range(0, 10, 2):
            triangle = np.stack([np.zeros(2), outline[k], outline[(k + 1) % 10]])
            parts.append(Part(triangle.astype(np.float32), 1))
    elif style < 0.7:  # a smaller star inside
        parts.append(Part(outline * np.float32(rng.uniform(0.5, 0.7)), 1))
    else:
        for k in range(0, 10, 2):
            ends = np.stack([np.zeros(2), outline[k] * 0.9]).astype(np.float32)
            strokes.append(Stroke(ends, 0.02, -0.35))
    return Shape(parts, strokes, polygon_area(outline))


def cog(rng: np.random.Generator) -> Shape:
    """Seven to ten blunt teeth around a rim; a bore, or windows between spokes."""
    teeth = int(rng.integers(7, 11))
    root, pitch = rng.uniform(0.4, 0.44), 2 * np.pi / teeth
    foot, tip = rng.uniform(0.26, 0.32) * pitch, rng.uniform(0.15, 0.22) * pitch
    base = np.arange(teeth)[:, None] * pitch + rng.uniform(0, pitch)
    angle = base + np.array([-foot, -tip, tip, foot])[None, :]
    radius = np.broadcast_to(np.array([root, 0.5, 0.5, root]), angle.shape)
    outline = _polar(radius.reshape(-1), angle.reshape(-1))
    parts, strokes = [Part(outline, 0)], []
    area = polygon_area(outline)
    if rng.random() < 0.25:  # spokes
        count, rim, hub = int(rng.integers(3, 6)), rng.uniform(0.27, 0.31), rng.uniform(0.1, 0.14)
        half = np.pi / count - rng.uniform(0.13, 0.2)
        start = rng.uniform(0, 2 * np.pi)
        for k in range(count):
            arc = start + k * 2 * np.pi / count + np.linspace(-half, half, 9)
            inset = np.linspace(-half, half, 9)[::-1] * 0.72
            window = np.concatenate(
                [_polar(rim, arc), _polar(hub, start + k * 2 * np.pi / count + inset)]
            )
            parts.append(Part(window, hole=True))
            area -= polygon_area(window)
        parts.append(Part(ellipse((0, 0), (hub * 0.55, hub * 0.55), n=14), 2))
    else:
        bore = rng.uniform(0.06, 0.12)
        parts.append(Part(ellipse((0, 0), (bore + 0.09, bore + 0.09), n=24), 1))
        parts.append(Part(ellipse((0, 0), (bore, bore), n=20), hole=True))
        area -= np.pi * bore**2
    ring = ellipse((0, 0), (root * 0.88, root * 0.88), n=28)
    strokes.append(Stroke(np.concatenate([ring, ring[:1]]), 0.018, -0.3))
    return Shape(parts, strokes, area)


def _spine(rng: np.random.Generator, bend: float, n: int = 25) -> tuple[np.ndarray, np.ndarray]:
    """A bent axis from (-0.5, 0) to (0.5, 0): points (n, 2) and unit normals (n, 2)."""
    t = np.linspace(0.0, 1.0, n)
    curve = rng.normal(0.0, bend)
    points = np.stack([t - 0.5, curve * (4 * t * (1 - t))], axis=1)
    tangent = np.gradient(points, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    return points, np.stack([-tangent[:, 1], tangent[:, 0]], axis=1)


def _profile(rng: np.random.Generator, n: int = 25) -> np.ndarray:
    """Half width of a spindle along its axis; leaf and fish share it."""
    t = np.linspace(0.0, 1.0, n)
    fullest = rng.uniform(0.36, 0.5)
    power = np.log(0.5) / np.log(fullest)
    return rng.uniform(0.19, 0.28) * np.sin(np.pi * t**power) ** rng.uniform(0.75, 1.05)


def leaf(rng: np.random.Generator) -> Shape:
    """A spindle with a thin stem, a midrib and side veins; the edge smooth or toothed."""
    axis, normal = _spine(rng, 0.09)
    width = _profile(rng)
    if rng.random() < 0.4:
        width = width * (1.0 + 0.13 * (np.arange(25) % 2)) * (np.linspace(0, 1, 25) < 0.97)
    left, right = axis + normal * width[:, None], axis - normal * width[:, None]
    blade = np.concatenate([left, right[::-1]]).astype(np.float32)
    length, half = rng.uniform(0.08, 0.2), rng.uniform(0.02, 0.032)
    droop = rng.normal(0.0, 0.12)
    s = np.linspace(0.0, 1.0, 7)
    back = np.stack([axis[1, 0] - s * (length + 0.04), axis[1, 1] + droop * s**2], axis=1)
    offset = np.array([0.0, 1.0]) * (half * (1.0 + 0.6 * (s > 0.9)))[:, None]
    stem = np.concatenate([back + offset, (back - offset)[::-1]]).astype(np.float32)
    parts = [Part(stem, 1), Part(blade, 0)]
    if rng.random() < 0.35:  # the halves differ in tone
        parts.append(Part(np.concatenate([left, axis[::-1]]).astype(np.float32), 1))
    sign = -0.4 if rng.random() < 0.6 else 0.5
    strokes = [Stroke(axis[1:-1].astype(np.float32), 0.022, sign)]
    pairs = int(rng.integers(4, 7))
    for k in np.linspace(4, 18, pairs).round().astype(int):
        for side in (left, right):
            tip = side[min(24, k + 4)] * 0.9 + axis[min(24, k + 4)] * 0.1
            strokes.append(Stroke(np.stack([axis[k], tip]).astype(np.float32), 0.012, sign * 0.8))
    return Shape(parts, strokes, polygon_area(blade) + 2 * half * length)


def fish(rng: np.random.Generator) -> Shape:
    """A spindle with a tail fin, fins on back and belly, an eye and a gill; looks to +x."""
    axis, normal = _spine(rng, 0.04)
    width = np.maximum(_profile(rng)[::-1], np.linspace(0.035, 0.0, 25))
    left, right = axis + normal * width[:, None], axis - normal * width[:, None]
    body = np.concatenate([left, right[::-1]]).astype(np.float32)
    root, spread = axis[1], rng.uniform(0.18, 0.28)
    reach, fork = rng.uniform(0.16, 0.26), rng.uniform(0.35, 0.85)
    lobes = [
        (0.05, 0.03),
        (-reach, spread),
        (-reach * (1 - fork), 0.0),
        (-reach * rng.uniform(0.8, 1.1), -spread),
        (0.05, -0.03),
    ]
    tail = root + np.array(lobes)
    parts = [Part(tail.astype(np.float32), 1)]
    i, j = int(rng.integers(6, 10)), int(rng.integers(14, 18))
    height = rng.uniform(0.05, 0.11)
    fin = np.array([right[i], right[(i + j) // 2 - 1] + [-0.06, -height], right[j], axis[j]])
    parts.append(Part(np.concatenate([fin, axis[i : i + 1]]).astype(np.float32), 1))
    if rng.random() < 0.7:
        k = int(rng.integers(9, 13))
        belly = np.array(
            [left[k], left[k] + [-0.09, rng.uniform(0.04, 0.08)], left[k - 4], axis[k]]
        )
        parts.append(Part(belly.astype(np.float32), 1))
    parts.append(Part(body, 0))
    head = axis[21] - normal[21] * width[21] * 0.25
    size = rng.uniform(0.022, 0.034)
    parts.append(Part(ellipse((head[0], head[1]), (size, size), n=12), 3))
    parts.append(Part(ellipse((head[0] + 0.004, head[1]), (size * 0.55, size * 0.55), n=10), 2))
    t = np.linspace(-0.85, 0.85, 7)
    gill = axis[18] + normal[18] * (t * width[18])[:, None]
    gill[:, 0] -= 0.04 * (1 - t**2) - 0.02
    strokes = [Stroke(gill.astype(np.float32), 0.02, -0.5)]
    side = axis[13] + normal[13] * width[13] * 0.2
    pectoral = side + np.array([[0.0, 0.0], [-0.1, 0.05], [-0.07, -0.01], [0.0, 0.0]])
    strokes.append(Stroke(pectoral.astype(np.float32), 0.014, -0.4))
    area = polygon_area(body) + 0.8 * polygon_area(tail) + 0.4 * polygon_area(fin)
    return Shape(parts, strokes, area)


def _vessel(rng: np.random.Generator, handle: bool) -> Shape:
    """Body, rim and opening of a drinking vessel; with a handle it is a mug."""
    tall = rng.uniform(0.62, 1.0)
    top, bottom = 0.36, 0.36 * rng.uniform(0.62, 1.02)
    flat = rng.uniform(0.05, 0.12)  # how far from above it is seen
    y0, y1 = -0.5 * tall + flat, 0.5 * tall - flat * 0.6
    t = np.linspace(0.0, np.pi, 13)
    lower = np.stack([bottom * np.cos(t), y1 + flat * 0.8 * np.sin(t)], axis=1)
    bulge = rng.normal(0.0, 0.025)
    middle, level = 0.5 * (top + bottom) + bulge, 0.5 * (y0 + y1)
    body = np.array(
        [[-top, y0], [top, y0], [middle, level], *lower, [-middle, level]], dtype=np.float32
    )
    parts, strokes = [], []
    area = polygon_area(body)
    if handle:
        side = 1.0 if rng.random() < 0.5 else -1.0
        thick = rng.uniform(0.06, 0.09)
        mid, high = 0.5 * (y0 + y1) + rng.normal(0, 0.02), rng.uniform(0.3, 0.4) * (y1 - y0)
        reach = rng.uniform(0.26, 0.36)
        u = np.linspace(-np.pi / 2, np.pi / 2, 15)
        square = rng.uniform(0.6, 1.0)  # below 1 the handle is rather a rectangle
        wave = np.sign(np.sin(u)) * np.abs(np.sin(u)) ** square
        outer, inner = (
            np.stack([middle - 0.03 + r * np.cos(u) ** square, mid + h * wave], axis=1)
            for r, h in ((reach, high), (reach - thick, high - thick))
        )
        band = np.concatenate([outer, inner[::-1]]) * [side, 1.0]
        parts.append(Part(band.astype(np.float32), 0))
        area += 0.8 * polygon_area(band)
    parts.append(Part(body, 0))
    style = rng.random()
    if style < 0.4:  # a band around the body
        a, b = np.sort(rng.uniform(0.2, 0.9, 2))
        arc_a, arc_b = (
            np.stack([half * 0.96 * np.cos(t), y + flat * 0.8 * np.sin(t)], axis=1)
            for half, y in ((bottom * q + top * (1 - q), y0 + q * (y1 - y0)) for q in (a, b))
        )
        parts.append(Part(np.concatenate([arc_a, arc_b[::-1]]).astype(np.float32), 1))
    elif style < 0.6:
        spot = ellipse((rng.normal(0, 0.08), rng.normal(0.08, 0.06)), (0.12, 0.13), n=16)
        parts.append(Part(spot, 3 if rng.random() < 0.5 else 1))
    rim = ellipse((0.0, y0), (top, flat), n=26)
    parts.append(Part(rim, 3 if rng.random() < 0.4 else 0))
    parts.append(Part(ellipse((0.0, y0), (top * 0.88, flat * 0.78), n=22), 2))
    strokes.append(Stroke(np.concatenate([rim, rim[:1]]), 0.018, 0.35))
    return Shape(parts, strokes, area)


def mug(rng: np.random.Generator) -> Shape:
    """A vessel with a handle (and a hole behind it)."""
    return _vessel(rng, handle=True)


def cup(rng: np.random.Generator) -> Shape:
    """A vessel without a handle, otherwise drawn like a mug."""
    return _vessel(rng, handle=False)


def distractor(rng: np.random.Generator) -> Shape:
    """A thing of no class: stone, box, plain polygon, disc, crescent, lens, bar or three-star."""
    kind = int(rng.integers(9))
    if kind <= 1:  # stone
        angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        radius = 0.4 + sum(
            rng.normal(0, 0.09 / k) * np.cos(k * angle + rng.uniform(0, 6.3)) for k in (1, 2, 3, 4)
        )
        outline = _polar(radius, angle)
    elif kind == 2:  # box with a lighter top
        w, h, d = rng.uniform(0.2, 0.5), rng.uniform(0.15, 0.45), rng.uniform(0.08, 0.2)
        outline = np.array([[-w, -h], [w, -h], [w, h], [-w, h]], dtype=np.float32)
        lid = np.array([[-w, -h], [-w + d, -h - d], [w + d, -h - d], [w, -h]], dtype=np.float32)
        side = np.array([[w, -h], [w + d, -h - d], [w + d, h - d], [w, h]], dtype=np.float32)
        shape = [Part(outline, 0), Part(lid, 3), Part(side, 2)]
        return Shape(shape, [], polygon_area(outline) + polygon_area(lid) + polygon_area(side))
    elif kind == 3:  # triangle, quadrilateral or hexagon
        n = int(rng.choice([3, 4, 6]))
        angle = np.arange(n) * 2 * np.pi / n + rng.normal(0, 0.12, n)
        outline = _polar(np.full(n, 0.5), angle)
    elif kind == 4:  # disc or oval, sometimes with a plain ring
        radii = (0.45, 0.45 * rng.uniform(0.5, 1.0))
        outline = ellipse((0, 0), radii, n=28)
        if rng.random() < 0.5:
            inner = ellipse((0, 0), (radii[0] * 0.6, radii[1] * 0.6), n=24)
            return Shape([Part(outline, 0), Part(inner, 1)], [], polygon_area(outline))
    elif kind == 5:  # crescent
        t = np.linspace(-2.2, 2.2, 17)
        outer = _polar(0.48, t)
        inner = outer * np.float32(0.8) + np.array([-0.16, 0.0], dtype=np.float32)
        outline = np.concatenate([outer, inner[::-1]])
    elif kind == 6:  # lens: a spindle with neither stem nor fins
        axis, normal = _spine(rng, 0.06)
        width = _profile(rng)[:, None]
        left, right = axis + normal * width, axis - normal * width
        outline = np.concatenate([left, right[::-1]]).astype(np.float32)
    elif kind == 7:  # bar
        half = rng.uniform(0.02, 0.07)
        outline = np.array([[-0.7, -half], [0.7, -half], [0.7, half], [-0.7, half]])
    else:  # three or four points: almost a star
        n = int(rng.integers(3, 5)) * 2
        angle = np.arange(n) * 2 * np.pi / n
        outline = _polar(np.where(np.arange(n) % 2 == 0, 0.5, rng.uniform(0.17, 0.25)), angle)
    outline = outline.astype(np.float32)
    return Shape([Part(outline, 0)], [], polygon_area(outline))


OBJECTS = {"mug": mug, "cup": cup, "leaf": leaf, "fish": fish, "star": star, "cog": cog}
"""Functions by class name."""

UPRIGHT = frozenset({"mug", "cup"})
"""Classes that stand, give or take a tilt; the others lie at any angle."""
