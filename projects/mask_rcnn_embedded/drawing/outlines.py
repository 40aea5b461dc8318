"""Outlines of further things, most of them given as numbers: symmetric chains, animals, furniture.

Every function returns a :class:`~mask_rcnn_embedded.drawing.shapes.Shape` of about unit size (x
right, y down), with proportions, parts and markings that vary from one thing to the next.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

import cv2
import numpy as np

from mask_rcnn_embedded.drawing.camera import Camera, Face, box, project_body
from mask_rcnn_embedded.drawing.person import hull
from mask_rcnn_embedded.drawing.shapes import Shape
from mask_rcnn_embedded.drawing.solid import Part, Stroke, ellipse

MAIN, SECOND, DARK, LIGHT = range(4)

_CHAINS: dict[str, tuple[str, str]] = {
    # Right half from top to bottom as "x,y" in percent, and bands "tone:y0:y1" of other tones.
    "bottle": ("7,-50 7,-30 18,-12 18,47 15,50", "2:-50:-41 3:2:28"),
    "vase": ("16,-50 9,-38 12,-30 28,-6 26,20 12,43 16,50", "1:-8:10"),
    "wine_glass": ("20,-50 22,-30 17,-12 4,-2 3,40 18,46 18,50", "1:-34:-10"),
    "bell": ("4,-50 8,-45 18,-36 22,-5 27,20 38,34 38,39 8,39 7,50", "2:39:50 1:14:22"),
    "hourglass": ("28,-50 28,-44 22,-38 20,-20 3,0 20,20 22,38 28,44 28,50", "2:-50:-43 2:43:50"),
    "lamp": ("14,-50 36,-8 5,-7 5,38 23,45 23,50", "3:-50:-8"),
    "rocket": ("0,-50 12,-32 16,-6 14,22 32,48 11,38 8,50", "2:-50:-33 1:12:24"),
    "mushroom": ("9,-38 32,-26 44,-4 38,4 12,5 10,30 16,46 8,50", "3:4:50"),
    "light_bulb": ("12,-50 30,-39 35,-20 28,0 14,17 14,43 6,50", "2:18:50"),
    "pawn": ("12,-50 18,-38 11,-25 19,-20 9,-14 12,20 27,38 28,50", "1:36:42"),
    "ice_cream": ("14,-48 25,-36 25,-20 18,-8 23,-7 2,50", "1:-7:50"),
    "carrot": ("3,-50 13,-40 4,-28 16,-25 14,-8 2,50", "1:-50:-26"),
    "fir": ("0,-50 17,-24 9,-23 27,2 14,3 37,34 6,35 6,50", "2:35:50"),
    "lighthouse": ("7,-48 12,-38 12,-27 17,-26 17,-21 13,-20 23,50", "3:-38:-27 1:-8:8 1:22:38"),
    "snowman": ("6,-50 14,-42 13,-30 8,-26 20,-18 22,-6 14,6 28,18 30,34 18,50", "2:-50:-43"),
    "heart": ("0,-26 12,-44 32,-46 46,-28 44,-4 24,24 0,48", ""),
    "crown": ("0,-38 10,-4 26,-32 30,-4 48,-36 40,36 0,36", "1:20:36"),
    "t_shirt": ("12,-42 24,-42 50,-16 37,-2 26,-14 27,46 0,46", "1:5:25"),
    "trousers": ("23,-50 30,50 12,50 2,-12 0,-12", "2:-50:-43"),
    "dress": ("9,-50 15,-50 18,-36 11,-10 40,48 0,50", "1:-12:-5"),
    "butterfly": ("3,-22 22,-46 47,-40 43,-8 24,2 40,18 32,42 14,36 3,18", ""),
    "airplane": ("0,-50 5,-40 6,-16 49,10 49,17 6,10 4,33 18,45 18,50 0,46", ""),
    "arrow": ("0,-50 32,-12 12,-13 12,50 0,50", ""),
    "hammer": ("30,-46 30,-26 5,-26 6,50 0,50", "2:-46:-26"),
    "spoon": ("6,-50 14,-42 16,-30 10,-16 3,-8 4,46 0,50", ""),
    "anchor": ("4,-50 5,-34 20,-34 20,-27 5,-27 5,30 22,22 30,8 40,6 36,30 20,44 0,50", ""),
    "house": ("0,-46 48,-6 38,-6 38,46 0,46", "1:-46:-6"),
}  # fmt: skip

_ANIMALS: dict[str, tuple[float, ...]] = {
    # Body length, body radius, leg length, leg radius, neck length, neck angle, head length, head
    # radius, tail length, ear length.
    "dog": (0.44, 0.105, 0.24, 0.03, 0.13, 0.95, 0.15, 0.065, 0.22, 0.09),
    "horse": (0.46, 0.13, 0.36, 0.03, 0.28, 0.95, 0.2, 0.06, 0.26, 0.04),
    "giraffe": (0.3, 0.1, 0.4, 0.025, 0.5, 1.2, 0.13, 0.04, 0.2, 0.05),
    "elephant": (0.42, 0.2, 0.26, 0.06, 0.1, 0.4, 0.1, 0.13, 0.16, 0.17),
    "pig": (0.42, 0.16, 0.12, 0.035, 0.07, 0.3, 0.15, 0.09, 0.07, 0.06),
}


def union_area(parts: list[Part]) -> float:
    """Area that parts cover together, in their own units, to about two percent."""
    every = np.concatenate([part.polygon for part in parts])
    low, high = every.min(axis=0), every.max(axis=0)
    scale = 100.0 / max(float((high - low).max()), 1e-6)
    canvas = np.zeros((102, 102), np.uint8)
    for part in parts:
        points = np.round((part.polygon - low) * scale * 16).astype(np.int32)
        cv2.fillPoly(canvas, [points], 0 if part.hole else 1, shift=4)
    return max(float(cv2.countNonZero(canvas)) / scale**2, 1e-6)


class _Parts(list[Part]):
    """Parts of a thing, back to front."""

    def part(self, points: object, tone: int = MAIN) -> None:
        self.append(Part(np.asarray(points, dtype=np.float32), tone))

    def disc(self, x: float, y: float, rx: float, ry: float, tone: int, hole: bool = False) -> None:
        self.append(Part(ellipse((x, y), (rx, ry), n=24), tone, hole=hole))

    def limb(self, *balls: tuple[float, float, float], tone: int = MAIN) -> None:
        """The hull of discs, each (x, y, radius)."""
        self.append(Part(hull(*((np.array(ball[:2]), ball[2]) for ball in balls)), tone))

    def shape(self, strokes: list[Stroke] | None = None) -> Shape:
        return Shape(self, strokes or [], union_area(self))


def _smooth(points: np.ndarray) -> np.ndarray:
    """Cuts the corners of an open chain (n, 2) once; the ends stay."""
    a, b = points[:-1], points[1:]
    cut = np.stack([0.75 * a + 0.25 * b, 0.25 * a + 0.75 * b], axis=1).reshape(-1, 2)
    return np.concatenate([points[:1], cut, points[-1:]])


def _chain(rng: np.random.Generator, name: str) -> Shape:
    """A thing that is symmetric about its axis, with bands or spots of other tones."""
    text, bands = _CHAINS[name]
    half = np.array([[float(v) for v in pair.split(",")] for pair in text.split()]) / 100.0
    half[:, 0] *= np.exp(rng.normal(0.0, 0.07, len(half)))
    half[:, 0] *= np.exp(rng.normal(0.0, 0.16))
    half[:, 1] += rng.normal(0.0, 0.012, len(half))
    if rng.random() < 0.55:
        half = _smooth(half)
    outline = np.concatenate([half, half[::-1] * [-1.0, 1.0]])
    parts = _Parts()
    parts.part(outline)
    rows, widths = np.maximum.accumulate(half[:, 1]), half[:, 0]
    for tone, low, high in (band.split(":") for band in bands.split()):
        if rng.random() < 0.2:
            continue
        level = np.linspace(float(low), float(high), 9) / 100.0 + rng.normal(0.0, 0.02)
        inside = np.interp(level, rows, widths) * 0.995
        edge = np.stack([inside, np.clip(level, rows[0], rows[-1])], axis=1)
        parts.part(np.concatenate([edge, edge[::-1] * [-1, 1]]), int(tone))
    if name == "house":
        for x, y in ((-0.2, 0.04), (0.2, 0.04)):
            w = rng.uniform(0.05, 0.09)
            parts.part([[x - w, y], [x + w, y], [x + w, y + 0.14], [x - w, y + 0.14]], DARK)
        door = rng.uniform(0.06, 0.1)
        parts.part([[-door, 0.24], [door, 0.24], [door, 0.455], [-door, 0.455]], LIGHT)
    elif name == "butterfly":
        for sign in (-1.0, 1.0):
            parts.disc(sign * 0.3, -0.26, 0.09, 0.08, SECOND)
            parts.disc(sign * 0.24, 0.22, 0.06, 0.06, LIGHT)
        parts.disc(0.0, 0.0, 0.035, 0.28, DARK)
    elif name == "snowman":
        for x, y in ((-0.05, -0.38), (0.05, -0.38), (0.0, -0.1), (0.0, 0.1), (0.0, 0.28)):
            parts.disc(x, y, 0.018, 0.018, DARK)
    elif name == "anchor":
        parts.disc(0.0, -0.45, 0.08, 0.08, MAIN)
        parts.disc(0.0, -0.45, 0.04, 0.04, MAIN, hole=True)
    elif name in ("airplane", "spoon"):
        parts.disc(0.0, -0.33, 0.03 if name == "airplane" else 0.1, 0.1, DARK)
    middle = np.array([[0.05, half[0, 1] * 0.6], [0.05, half[-1, 1] * 0.6]])
    gloss = Stroke(middle.astype(np.float32), 0.03, float(rng.uniform(-0.3, 0.4)))
    return parts.shape([gloss] if rng.random() < 0.4 else [])


def _animal(rng: np.random.Generator, name: str) -> Shape:
    """A four-legged animal from the side, which looks to +x."""
    values = np.array(_ANIMALS[name]) * np.exp(rng.normal(0.0, 0.08, 10))
    length, girth, leg, thick, neck, angle, head, skull, tail, ear = values
    back, front, ground = -0.5 * length, 0.5 * length, girth + leg
    parts = _Parts()
    swing = rng.uniform(0.0, 0.45) * (1.0 if rng.random() < 0.5 else -1.0)
    for tone, sign in ((SECOND if rng.random() < 0.5 else MAIN, -1.0), (MAIN, 1.0)):
        for x, turn in ((back + girth * 0.4, swing), (front - girth * 0.4, -swing)):
            bend = sign * turn * rng.uniform(0.5, 1.0)
            knee = (x + 0.5 * leg * np.sin(bend), girth * 0.6 + 0.5 * leg, thick)
            foot = (knee[0] + 0.5 * leg * np.sin(bend * 0.4 - 0.1), ground, thick * 0.85)
            parts.limb((x, 0.2 * girth, thick * 1.9), knee, tone=tone)
            parts.limb(knee, foot, tone=tone)
        if sign < 0:
            droop = rng.uniform(-0.9, 1.2)
            away = back - 0.8 * girth - tail * np.cos(droop) * 0.7
            tip = (away, tail * np.sin(droop), thick * 0.5)
            parts.limb((back - 0.6 * girth, -0.3 * girth, thick * 0.8), tip)
            belly = (0.0, rng.normal(0.02, 0.02), girth * 0.92)
            parts.limb((back, 0.0, girth), belly, (front, -0.02, girth))
    for _ in range(int(rng.integers(0, 4))):  # spots of the coat
        x, y = rng.uniform(back, front), rng.uniform(-0.5, 0.4) * girth
        wide, high = rng.uniform(0.2, 0.5) * girth, rng.uniform(0.2, 0.4) * girth
        parts.disc(x, y, wide, high, SECOND)
    bow = angle + rng.normal(0.0, 0.15)
    top = np.array([front + girth * 0.3 + neck * np.cos(bow), -0.4 * girth - neck * np.sin(bow)])
    parts.limb((front, -0.1 * girth, girth * 0.7), (*top, skull * 0.75))
    drop = rng.normal(0.35, 0.2)
    nose = top + head * np.array([np.cos(drop), np.sin(drop)])
    if name == "elephant":  # the trunk
        low = nose + np.array([0.05, 0.28 + rng.normal(0.0, 0.05)])
        curl = low + np.array([rng.uniform(-0.08, 0.12), 0.02])
        parts.limb((*nose, 0.06), (*low, 0.035))
        parts.limb((*low, 0.035), (*curl, 0.03))
    parts.limb((*top, skull), (*nose, skull * 0.62))
    parts.disc(nose[0] + skull * 0.4, nose[1], skull * 0.22, skull * 0.25, DARK)
    eye = top + np.array([0.35 * head * np.cos(drop), -0.3 * skull])
    parts.disc(eye[0], eye[1], 0.018, 0.018, DARK)
    flap = top + np.array([-0.6 * ear, (0.8 if name in ("dog", "elephant") else -0.9) * ear])
    parts.limb(
        (top[0] - 0.2 * skull, top[1] - 0.5 * skull, skull * 0.35), (*flap, ear * 0.25), tone=SECOND
    )
    return parts.shape()


def _bird(rng: np.random.Generator, swan: bool) -> Shape:
    """A bird from the side, which looks to +x; a swan has a long neck and no legs to be seen."""
    rx, ry = rng.uniform(0.26, 0.32), rng.uniform(0.13, 0.18)
    neck = rng.uniform(0.3, 0.4) if swan else rng.uniform(0.04, 0.1)
    shoulder = np.array([0.8 * rx, -0.3 * ry])
    top = np.array([rx * rng.uniform(0.9, 1.15), -ry - neck])
    parts = _Parts()
    tail = (-rx - rng.uniform(0.1, 0.24), rng.uniform(-0.08, 0.1), 0.035)
    parts.limb((-0.7 * rx, 0.0, 0.07), tail, tone=SECOND)
    for x in () if swan else (-0.03, 0.06):
        foot = (x + rng.normal(0.02, 0.03), ry + rng.uniform(0.12, 0.2), 0.012)
        parts.limb((x, 0.8 * ry, 0.018), foot, tone=DARK)
        parts.limb(foot, (foot[0] + 0.07, foot[1], 0.01), tone=DARK)
    parts.disc(0.0, 0.0, rx, ry, MAIN)
    parts.limb((*shoulder, 0.07), (*top, 0.05))
    head = rng.uniform(0.065, 0.08) if swan else rng.uniform(0.09, 0.12)
    beak = np.array([[0.4 * head, -0.5 * head], [head + rng.uniform(0.07, 0.16), 0.0]])
    parts.part(top + np.concatenate([beak, beak[:1] * [1.0, -1.0]]), DARK)
    parts.disc(top[0], top[1], head, head * 0.95, MAIN if rng.random() < 0.6 else SECOND)
    parts.disc(top[0] + 0.35 * head, top[1] - 0.2 * head, 0.022, 0.022, LIGHT)
    parts.disc(top[0] + 0.38 * head, top[1] - 0.2 * head, 0.013, 0.013, DARK)
    raised = not swan and rng.random() < 0.35
    rise = -rng.uniform(0.3, 0.45) if raised else rng.uniform(-0.05, 0.08)
    tip = (-rx * rng.uniform(0.6, 1.1), rise, 0.02)
    middle = (-0.3 * rx, 0.5 * rise, 0.5 * ry)
    parts.limb((0.2 * rx, -0.1 * ry, 0.6 * ry), middle, tip, tone=SECOND)
    return parts.shape()


def _umbrella(rng: np.random.Generator) -> Shape:
    """A dome with a scalloped edge, ribs, a pole and a hook; opened."""
    high, ribs = rng.uniform(0.28, 0.44), int(rng.integers(4, 8))
    t = np.linspace(np.pi, 2 * np.pi, 25)
    dome = np.stack([0.5 * np.cos(t), high * np.sin(t)], axis=1)
    edges = np.linspace(0.5, -0.5, ribs + 1)
    u = np.linspace(0.0, 1.0, 7)[1:]
    low = [
        np.stack([a + (b - a) * u, -0.05 * np.sin(np.pi * u)], axis=1)
        for a, b in itertools.pairwise(edges)
    ]
    end, hook = rng.uniform(0.34, 0.5), rng.uniform(0.04, 0.07)
    parts = _Parts()
    parts.limb((0, -high - 0.05, 0.012), (0, end, 0.014), tone=DARK)
    angle = np.linspace(0.0, np.pi, 9)
    arc = np.stack([hook - hook * np.cos(angle), end + hook * np.sin(angle)], axis=1)
    for a, b in itertools.pairwise(arc):
        parts.limb((*a, 0.016), (*b, 0.016), tone=DARK)
    parts.part(np.concatenate([dome, *low]))
    for k in range(rng.integers(0, 2), ribs, 2):  # panels of another tone
        w = np.linspace(0.0, np.pi / 2, 9)
        sides = [np.stack([x * np.cos(w), -high * np.sin(w)], axis=1) for x in edges[k : k + 2]]
        parts.part(np.concatenate([sides[0], sides[1][::-1]]) * 0.99, SECOND)
    return parts.shape()


def _flower(rng: np.random.Generator) -> Shape:
    """Round petals around a disc, often on a stem with leaves."""
    petals, size = int(rng.integers(5, 10)), rng.uniform(0.1, 0.14)
    angle = np.arange(petals) * 2 * np.pi / petals + rng.uniform(0, 6)
    parts = _Parts()
    if rng.random() < 0.6:
        bend = rng.normal(0.0, 0.08)
        parts.limb((0, 0, 0.018), (bend, 0.6, 0.018), tone=DARK)
        parts.limb(
            (0.5 * bend, 0.4, 0.01),
            (0.5 * bend + 0.12, 0.33, 0.04),
            (0.5 * bend + 0.2, 0.28, 0.005),
            tone=DARK,
        )
    for a in angle:
        ring = ellipse((0.0, 0.0), (1.35 * size, min(size, 0.8 / petals)), float(a), 16)
        parts.part(ring + 0.17 * np.array([np.cos(a), np.sin(a)]))
    parts.disc(0.0, 0.0, 0.1, 0.1, SECOND)
    return parts.shape()


def _round(rng: np.random.Generator, ball: bool) -> Shape:
    """A clock with marks and hands, or a ball with panels."""
    turn = rng.uniform(0.0, 2 * np.pi)
    parts, strokes = _Parts(), []
    parts.disc(0, 0, 0.5, 0.5, MAIN)
    if ball:
        panels = int(rng.integers(4, 9))
        for k in range(0, panels - 1, 2):
            t = turn + np.linspace(k, k + 1, 7) * 2 * np.pi / panels
            rim = 0.497 * np.stack([np.cos(t), np.sin(t)], axis=1)
            parts.part(np.concatenate([[[0.12, -0.1]], rim]), SECOND)
        parts.disc(0.12, -0.1, 0.07, 0.07, LIGHT)
        return parts.shape()
    parts.disc(0, 0, 0.42, 0.42, LIGHT if rng.random() < 0.6 else SECOND)
    for k in range(12):
        a = k * np.pi / 6
        ends = np.array([[np.cos(a), np.sin(a)]]) * np.array([[0.32], [0.38]])
        strokes.append(Stroke(ends.astype(np.float32), 0.03, -0.8))
    for reach, width in ((0.22, 0.022), (0.33, 0.015)):
        a = rng.uniform(0, 2 * np.pi)
        parts.limb((0, 0, width), (reach * np.cos(a), reach * np.sin(a), width), tone=DARK)
    return parts.shape(strokes)


def _cactus(rng: np.random.Generator) -> Shape:
    """A column with two bent arms, in a pot or not."""
    wide = rng.uniform(0.08, 0.11)
    parts = _Parts()
    parts.limb((0, -0.4, wide), (0, 0.5, wide))
    for sign in (-1.0, 1.0):
        low, reach, up = rng.uniform(-0.1, 0.25), rng.uniform(0.2, 0.28), rng.uniform(0.15, 0.35)
        bend = (sign * reach, low, 0.065)
        parts.limb((0, low, 0.06), bend)
        parts.limb(bend, (sign * reach, low - up, 0.06))
    if rng.random() < 0.5:
        parts.part([[-0.2, 0.3], [0.2, 0.3], [0.14, 0.56], [-0.14, 0.56]], SECOND)
    lines = [np.array([[x, -0.4], [x, 0.3]], np.float32) for x in (-0.04, 0.0, 0.04)]
    return parts.shape([Stroke(line, 0.012, -0.4) for line in lines])


def _snowflake(rng: np.random.Generator) -> Shape:
    """Six thin arms with side branches."""
    thin, where, length = rng.uniform(0.018, 0.03), rng.uniform(0.22, 0.34), rng.uniform(0.1, 0.18)
    parts = _Parts()
    for a in np.arange(6) * np.pi / 3:
        along = np.array([np.cos(a), np.sin(a)])
        parts.limb((0, 0, thin), (*(0.5 * along), thin))
        for turn in (-0.8, 0.8):
            tip = where * along + length * np.array([np.cos(a + turn), np.sin(a + turn)])
            parts.limb((*(where * along), thin), (*tip, thin * 0.8))
    return parts.shape()


def _glasses(rng: np.random.Generator) -> Shape:
    """Two rims with a bridge and temples."""
    r, thin = rng.uniform(0.15, 0.2), rng.uniform(0.02, 0.035)
    tall, parts = r * rng.uniform(0.7, 1.05), _Parts()
    for sign in (-1.0, 1.0):
        parts.limb((sign * (0.22 + r), 0, thin), (sign * 0.52, -0.14, thin * 0.8))
        parts.disc(sign * 0.24, 0, r + thin, tall + thin, MAIN)
        see_through = rng.random() < 0.5
        parts.disc(sign * 0.24, 0, r - thin, tall - thin, DARK, hole=see_through)
    parts.limb((-0.07, -0.02, thin), (0.07, -0.02, thin))
    return parts.shape()


def _key(rng: np.random.Generator) -> Shape:
    """A ring, a shaft and a bit of two or three teeth."""
    bow, shaft = rng.uniform(0.13, 0.18), rng.uniform(0.03, 0.045)
    parts = _Parts()
    parts.disc(-0.35, 0, bow, bow * rng.uniform(0.8, 1.1), MAIN)
    parts.disc(-0.35, 0, bow * 0.55, bow * 0.5, MAIN, hole=True)
    parts.limb((-0.35 + bow, 0, shaft), (0.48, 0, shaft))
    for x in np.linspace(0.28, 0.46, int(rng.integers(2, 4))):
        deep = rng.uniform(0.08, 0.16)
        parts.part([[x - 0.03, 0], [x + 0.03, 0], [x + 0.03, deep], [x - 0.03, deep]])
    return parts.shape()


def _ladder(rng: np.random.Generator) -> Shape:
    """Two rails and four to seven rungs."""
    half, thin, top = rng.uniform(0.12, 0.2), rng.uniform(0.02, 0.032), rng.uniform(0.7, 1.0)
    parts = _Parts()
    for sign in (-1.0, 1.0):
        parts.limb((sign * half * top, -0.5, thin), (sign * half, 0.5, thin))
    for y in np.linspace(-0.4, 0.4, int(rng.integers(4, 8))):
        parts.limb((-half * 0.9, y, thin * 0.8), (half * 0.9, y, thin * 0.8), tone=SECOND)
    return parts.shape()


def _windmill(rng: np.random.Generator) -> Shape:
    """A tower with four sails."""
    wide, turn = rng.uniform(0.1, 0.15), rng.uniform(0.0, np.pi / 2)
    parts = _Parts()
    parts.part([[-wide, -0.15], [wide, -0.15], [1.6 * wide, 0.5], [-1.6 * wide, 0.5]])
    parts.part([[-wide * 1.2, -0.14], [0, -0.3], [wide * 1.2, -0.14]], DARK)
    for a in turn + np.arange(4) * np.pi / 2:
        along, side = np.array([np.cos(a), np.sin(a)]), np.array([-np.sin(a), np.cos(a)])
        blade = np.array(
            [0.06 * along, 0.42 * along, 0.42 * along + 0.1 * side, 0.1 * along + 0.1 * side]
        )
        parts.part(blade - np.array([0.0, 0.16]), SECOND)
        parts.limb((0, -0.16, 0.015), (0.44 * along[0], -0.16 + 0.44 * along[1], 0.012), tone=DARK)
    return parts.shape()


def _furniture(rng: np.random.Generator, kind: str) -> Shape:
    """A chair, a table or a bench of boxes in perspective."""
    deep, half = {"chair": (0.45, 0.23), "table": (0.7, 0.55), "bench": (0.42, 0.75)}[kind]
    deep, half = deep * rng.uniform(0.85, 1.15), half * rng.uniform(0.85, 1.15)
    seat = {"chair": 0.45, "table": 0.74, "bench": 0.44}[kind] * rng.uniform(0.9, 1.1)
    leg, board = rng.uniform(0.018, 0.035), rng.uniform(0.025, 0.05)

    def block(x: tuple[float, float], y: float, wide: float, z: tuple[float, float], tone: int) -> (
        list[Face]
    ):  # fmt: skip
        faces = list(box(*x, wide, *z, (tone, tone, LIGHT if tone == MAIN else tone)).values())
        for face in faces:
            face.points[:, 1] += y
        return faces

    legs = [
        block((x - leg, x + leg), y, leg, (0.0, seat), SECOND)
        for x in (-0.5 * deep + leg, 0.5 * deep - leg)
        for y in (-half + leg, half - leg)
    ]
    layers = [legs, [block((-0.5 * deep, 0.5 * deep), 0.0, half, (seat - board, seat), MAIN)]]
    if kind != "table":
        rear, high = -0.5 * deep, seat + rng.uniform(0.35, 0.55)
        ends = (leg - half, half - leg)
        back = [block((rear, rear + 0.04), y, leg, (seat, high), SECOND) for y in ends]
        full = rng.random() < 0.4
        for z in (high - 0.3,) if full else np.arange(seat + 0.12, high - 0.05, 0.13):
            rail = (z, high if full else z + 0.07)
            back.append(block((rear, rear + 0.03), 0.0, half, rail, MAIN))
        layers.append(back)
    heading = rng.uniform(-np.pi, np.pi)
    if kind != "table" and abs(heading) < np.pi / 2:  # seen from behind the back is in front
        layers[1:] = [[*layers[1], *layers[2]]]
    elif kind != "table":
        layers = [layers[0], layers[2], layers[1]] if abs(heading) > 2.2 else layers
    camera = Camera(1000, 1000, 1000.0, 500.0, rng.uniform(0.9, 1.7))
    parts = _Parts(project_body(layers, camera, np.array([0.0, rng.uniform(2.2, 4.0)]), heading))
    points = np.concatenate([part.polygon for part in parts])
    low, high = points.min(axis=0), points.max(axis=0)
    for part in parts:
        part.polygon = ((part.polygon - 0.5 * (low + high)) / (high - low).max()).astype(np.float32)
    return parts.shape()


OUTLINES: dict[str, Callable[[np.random.Generator], Shape]] = {
    **{name: functools.partial(_chain, name=name) for name in _CHAINS},
    **{name: functools.partial(_animal, name=name) for name in _ANIMALS},
    **{kind: functools.partial(_furniture, kind=kind) for kind in ("chair", "table", "bench")},
    "bird": functools.partial(_bird, swan=False),
    "swan": functools.partial(_bird, swan=True),
    "clock": functools.partial(_round, ball=False),
    "ball": functools.partial(_round, ball=True),
    "umbrella": _umbrella,
    "flower": _flower,
    "cactus": _cactus,
    "snowflake": _snowflake,
    "glasses": _glasses,
    "key": _key,
    "ladder": _ladder,
    "windmill": _windmill,
}
"""Functions by class name."""

LYING = frozenset(
    {"airplane", "arrow", "hammer", "spoon", "key", "carrot", "snowflake", "butterfly", "ball"}
    | {"heart", "anchor", "glasses", "leaf", "fish", "star", "cog", "bottle", "ladder"}
)
"""Classes that lie at any angle; the others stand."""
