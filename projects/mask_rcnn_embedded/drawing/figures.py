"""Pedestrians, and bicycles and motorcycles with or without a rider.

Body frame in metres as that of :mod:`mask_rcnn_embedded.drawing.person`: X to the left, Y down,
Z to the front, the origin on the ground. These things are small: they are seen in parallel
projection and scaled by their distance.
"""

from __future__ import annotations

import cv2
import numpy as np

from mask_rcnn_embedded.drawing.clothes import dressed
from mask_rcnn_embedded.drawing.person import (
    DARK,
    PERSON_AREA,
    hull,
    make_person,
    random_joints,
    view_matrix,
)
from mask_rcnn_embedded.drawing.solid import Part, Solid, ellipse
from mask_rcnn_embedded.drawing.textures import random_color, two_textures, vary

# Rows of a cycle's palette.
FRAME, TYRE, METAL, SEAT, LAMP, SECOND = range(6)

_CIRCLE = ellipse((0.0, 0.0), (1.0, 1.0), n=14)


def _solid_person(
    rng: np.random.Generator,
    body: dict[str, np.ndarray],
    view: np.ndarray,
    scale: float,
    theme: list[np.ndarray],
    height: float,
) -> Solid:
    """A dressed person of ``height`` metres, the pelvis at the image's origin."""
    solid = dressed(
        rng, make_person(rng, body, view), scale * height * float(np.sqrt(PERSON_AREA)), theme
    )
    solid.transform(np.eye(2) * scale * height, np.zeros(2))
    return solid


def pedestrian(
    rng: np.random.Generator, foot: np.ndarray, scale: float, theme: list[np.ndarray]
) -> Solid:
    """Somebody who walks or stands.

    Args:
        foot: (2,) image point on which the person stands.
        scale: pixels a metre.
    """
    pose = str(rng.choice(["walk", "stand", "run"], p=[0.62, 0.34, 0.04]))
    yaw = rng.choice([0.0, np.pi, np.pi / 2, -np.pi / 2]) + rng.normal(0.0, 0.5)
    child = rng.random() < 0.08
    height = rng.uniform(1.15, 1.4) if child else rng.uniform(1.58, 1.9)
    body = random_joints(rng, pose)
    # Arms of walkers hang or swing: those that reach far out look unlike a street.
    for side, sign in (("left", 1.0), ("right", -1.0)):
        shoulder = body[f"{side}_shoulder"]
        if body[f"{side}_hand"][1] < shoulder[1] + 0.12 and rng.random() < 0.75:
            swing = rng.normal(0.0, 0.3)
            down = np.array([sign * 0.12, np.cos(swing), np.sin(swing)])
            fore = np.array([0.0, np.cos(swing + 0.3), np.sin(swing + 0.3)])
            body[f"{side}_elbow"] = shoulder + 0.16 * down
            body[f"{side}_wrist"] = body[f"{side}_elbow"] + 0.145 * fore
            body[f"{side}_hand"] = body[f"{side}_wrist"] + 0.035 * fore
    solid = _solid_person(rng, body, view_matrix(yaw, 0.03), scale, theme, height)
    x0, _, x1, bottom = solid.bounds()
    solid.transform(np.eye(2), foot - np.array([(x0 + x1) / 2, bottom]))
    return solid


def _bend(start: np.ndarray, end: np.ndarray, a: float, b: float, toward: np.ndarray) -> np.ndarray:
    """The joint between two bones of lengths a and b from start to end, bent to one side."""
    line = end - start
    distance = max(float(np.linalg.norm(line)), 1e-6)
    along = line / distance
    reach = min(distance, a + b)
    t = (a * a - b * b + reach * reach) / (2.0 * reach)
    side = toward - (toward @ along) * along
    side /= max(float(np.linalg.norm(side)), 1e-6)
    return start + along * t * (distance / reach) + side * np.sqrt(max(a * a - t * t, 0.0))


def _rider_joints(
    rng: np.random.Generator,
    hip: np.ndarray,
    hands: list[np.ndarray],
    feet: list[np.ndarray],
    lean: float,
    height: float,
) -> dict[str, np.ndarray]:
    """Joints of somebody who sits on a cycle, in body heights relative to the pelvis."""
    up = np.array([0.0, -np.cos(lean), np.sin(lean)])
    across = np.array([1.0, 0.0, 0.0])
    nod = np.array([0.0, -np.cos(0.3 * lean), np.sin(0.3 * lean)])
    joints = {"pelvis": np.zeros(3), "neck": up * 0.30, "up": up}
    joints["head"] = up * 0.305 + nod * 0.115
    for k, side in enumerate(("left", "right")):
        sign = 1.0 if k == 0 else -1.0
        hip_joint = sign * across * 0.062
        ankle = (feet[k] - hip) / height
        knee = _bend(hip_joint, ankle, 0.245, 0.225, np.array([0.25 * sign, -0.3, 1.0]))
        shoulder = up * 0.285 + sign * across * 0.108
        wrist = (hands[k] - hip) / height
        elbow = _bend(shoulder, wrist, 0.17, 0.155, np.array([0.5 * sign, 1.0, -0.2]))
        joints[f"{side}_hip"], joints[f"{side}_knee"] = hip_joint, knee
        joints[f"{side}_ankle"] = ankle
        joints[f"{side}_toe"] = ankle + np.array([0.0, 0.02, 0.075])
        joints[f"{side}_shoulder"], joints[f"{side}_elbow"] = shoulder, elbow
        joints[f"{side}_wrist"] = wrist
        joints[f"{side}_hand"] = wrist + 0.03 * (wrist - elbow) / 0.155
    return joints


class _Sketch:
    """Collects the parts of a cycle in body coordinates and puts them in order of depth."""

    def __init__(self, view: np.ndarray) -> None:
        self._view = view
        self._drawn: list[tuple[float, Part]] = []

    def blob(self, points: list[tuple[float, float, float, float]], tone: int) -> None:
        """The hull of balls, each (x, y, z, radius)."""
        seen = [self._view @ np.array([x, y, z]) for x, y, z, _ in points]
        outline = hull(*((center, ball[3]) for center, ball in zip(seen, points, strict=True)))
        depth = float(np.mean([center[2] for center in seen]))
        self._drawn.append((depth, Part(outline, tone)))

    def wheel(self, z: float, radius: float, tyre: float, open_: bool) -> None:
        """A wheel in the plane X = 0; an open one shows what is behind its spokes."""
        t = np.linspace(0.0, 2.0 * np.pi, 20, endpoint=False)
        ring = radius - tyre
        rim = np.stack([np.zeros(20), -radius + ring * np.sin(t), z + ring * np.cos(t)], axis=1)
        seen = rim @ self._view.T
        outer = hull(*((center, tyre) for center in seen))
        # Wheels before all else: the hole of one must not cut through the frame.
        depth = float(seen[:, 2].mean()) - 10.0
        self._drawn.append((depth, Part(outer, TYRE)))
        inner = seen[:, :2].mean(axis=0) + (seen[:, :2] - seen[:, :2].mean(axis=0)) * (
            1.0 - 1.6 * tyre / radius
        )
        width = np.ptp(inner[:, 0])
        if width > 2.5 * tyre:
            piece = Part(inner.astype(np.float32), METAL, hole=open_)
            self._drawn.append((depth + 1e-4, piece))
        if open_:  # hub and two spokes hold the silhouette together
            hub = seen[:, :2].mean(axis=0)
            disc = (hub + 0.05 * _CIRCLE).astype(np.float32)
            for k in range(0, 10, 2):
                ends = np.stack([seen[k, :2], seen[k + 10, :2]])
                side = ends[1] - ends[0]
                normal = np.array([-side[1], side[0]]) / max(float(np.linalg.norm(side)), 1e-6)
                spoke = np.concatenate([ends + 0.008 * normal, (ends - 0.008 * normal)[::-1]])
                self._drawn.append((depth + 2e-4, Part(spoke.astype(np.float32), METAL)))
            self._drawn.append((depth + 3e-4, Part(disc, METAL)))

    def parts(self) -> list[Part]:
        self._drawn.sort(key=lambda item: item[0])
        return [part for _, part in self._drawn]


def _cycle_palette(rng: np.random.Generator) -> np.ndarray:
    colors = [
        random_color(rng),
        np.full(3, rng.uniform(18.0, 42.0)),
        np.full(3, rng.uniform(100.0, 180.0)),
        np.array([35.0, 40.0, 48.0]) * rng.uniform(0.6, 1.8),
        np.array([215.0, 235.0, 245.0]),
        random_color(rng),
    ]
    palette = [np.stack([c, vary(rng, np.asarray(c, np.float32), 0.02)]) for c in colors]
    return np.clip(np.stack(palette), 3, 252).astype(np.float32)


def _bicycle(sketch: _Sketch, rng: np.random.Generator, turn: float) -> None:
    """Two large thin wheels, a frame of tubes, saddle and handlebar."""
    radius = 0.35
    rear, front = (0.0, -radius, -0.52), (0.0, -radius, 0.56)
    crank, saddle, head = (0.0, -0.3, -0.06), (0.0, -0.92, -0.24), (0.0, -0.86, 0.38)
    bar = (0.0, -1.04, 0.36)
    for z in (rear[2], front[2]):
        sketch.wheel(z, radius, 0.035, open_=True)
    step = rng.random() < 0.4  # a low frame to step through
    top = (0.0, -0.42 if step else -0.78, -0.1 if step else -0.2)
    tube = 0.022
    for p, q in ((rear, crank), (rear, saddle), (crank, saddle), (crank, head), (top, head)):
        sketch.blob([(*p, tube), (*q, tube)], FRAME)
    sketch.blob([(*front, tube), (*bar, tube)], FRAME)
    sketch.blob([(0.0, -0.95, -0.36, 0.05), (0.0, -0.96, -0.12, 0.025)], SEAT)
    sketch.blob([(-0.28, -1.06, 0.3, 0.022), (0.28, -1.06, 0.3, 0.022)], SEAT)
    sketch.blob([(0.0, -0.92, 0.45, 0.045)], LAMP)
    for k, sign in enumerate((1.0, -1.0)):
        y, z = -0.3 + 0.17 * np.sin(turn + k * np.pi), -0.06 + 0.17 * np.cos(turn + k * np.pi)
        sketch.blob([(sign * 0.06, -0.3, -0.06, 0.016), (sign * 0.08, y, z, 0.016)], METAL)
        sketch.blob([(sign * 0.08, y, z, 0.02), (sign * 0.17, y, z, 0.02)], METAL)
    if rng.random() < 0.35:  # carrier with a bag or a basket
        sketch.blob([(0.0, -0.75, -0.62, 0.09), (0.0, -0.75, -0.42, 0.09)], SECOND)


def _motorcycle(sketch: _Sketch, rng: np.random.Generator) -> None:
    """Small thick wheels, a heavy body from tank to tail, a fork with a lamp."""
    radius, scooter = rng.uniform(0.28, 0.33), rng.random() < 0.35
    wide = rng.uniform(0.13, 0.18)
    for z in (-0.64, 0.68):
        sketch.wheel(z, radius, 0.075, open_=False)
    sketch.blob([(0, -0.4, -0.25, wide), (0, -0.42, 0.2, wide), (0, -0.62, 0.0, wide)], METAL)
    sketch.blob([(0, -0.78, -0.62, 0.08), (0, -0.72, -0.1, 0.13)], SEAT)
    sketch.blob([(0, -0.68, -0.7, 0.09), (0, -0.6, -0.2, 0.15)], FRAME)
    if scooter:  # a shield before the legs instead of a tank
        sketch.blob(
            [(-0.2, -0.35, 0.36, 0.05), (0.2, -0.35, 0.36, 0.05), (0, -0.95, 0.4, 0.1)], FRAME
        )
        sketch.blob([(-0.15, -0.3, 0.3, 0.05), (0.15, -0.3, -0.3, 0.05)], FRAME)
    else:
        sketch.blob([(0, -0.8, -0.05, 0.13), (0, -0.86, 0.26, 0.15)], FRAME)
        sketch.blob([(0.12, -0.32, 0.0, 0.05), (0.12, -0.36, -0.68, 0.06)], METAL)
        sketch.blob([(-0.12, -0.32, 0.0, 0.05), (-0.12, -0.36, -0.68, 0.06)], METAL)
    for x in (-0.08, 0.08):
        sketch.blob([(x, -radius, 0.68, 0.03), (x, -0.95, 0.42, 0.03)], TYRE)
    sketch.blob([(0, -2 * radius - 0.03, 0.6, 0.07), (0, -1.7 * radius, 0.9, 0.05)], SECOND)
    sketch.blob([(0, -0.9, 0.5, 0.11)], SECOND)
    sketch.blob([(0, -0.9, 0.59, 0.075)], LAMP)
    sketch.blob([(-0.34, -1.02, 0.32, 0.03), (0.34, -1.02, 0.32, 0.03)], TYRE)
    if rng.random() < 0.5:
        sketch.blob(
            [(-0.16, -1.05, 0.46, 0.03), (0.16, -1.05, 0.46, 0.03), (0, -1.3, 0.36, 0.08)], LAMP
        )


def cycle(
    rng: np.random.Generator,
    category: str,
    foot: np.ndarray,
    scale: float,
    yaw: float,
    ridden: bool,
    theme: list[np.ndarray],
) -> list[Solid]:
    """A bicycle or motorcycle and, after it, its rider.

    Args:
        category: ``bicycle`` or ``motorcycle``.
        foot: (2,) image point of the ground between the wheels.
        scale: pixels a metre.
        yaw: 0 comes towards the viewer, pi / 2 goes to the right.
        ridden: whether somebody rides it.

    Returns:
        One solid, or two with the rider.
    """
    view = view_matrix(yaw, 0.03)
    sketch = _Sketch(view)
    turn = float(rng.uniform(0.0, 2.0 * np.pi))
    if category == "bicycle":
        _bicycle(sketch, rng, turn)
        hip = np.array([0.0, -1.0, -0.24])
        hands = [np.array([s * 0.26, -1.07, 0.3]) for s in (1.0, -1.0)]
        feet = []
        for k, sign in enumerate((1.0, -1.0)):
            angle = turn + k * np.pi
            pedal = [sign * 0.12, -0.38 + 0.17 * np.sin(angle), -0.12 + 0.17 * np.cos(angle)]
            feet.append(np.array(pedal))
        lean = rng.uniform(0.2, 0.6)
    else:
        _motorcycle(sketch, rng)
        hip = np.array([0.0, -0.87, -0.22])
        hands = [np.array([s * 0.3, -1.05, 0.3]) for s in (1.0, -1.0)]
        feet = [np.array([s * 0.2, -0.34, -0.08]) for s in (1.0, -1.0)]
        lean = rng.uniform(0.1, 0.45)
    extent = scale * 0.8
    machine = Solid(
        category,
        sketch.parts(),
        _cycle_palette(rng),
        np.zeros(6, dtype=np.float32),
        two_textures(rng, extent),
        relief=float(rng.uniform(0.1, 0.5)),
        seams=float(rng.uniform(0.1, 0.3)),
    )
    machine.transform(np.eye(2) * scale, foot)
    if not ridden:
        return [machine]
    height = rng.uniform(1.66, 1.86)
    joints = _rider_joints(rng, hip, hands, feet, lean, height)
    rider = _solid_person(rng, joints, view, scale, theme, height)
    rider.category = "rider"
    if category == "motorcycle" or rng.random() < 0.4:
        _helmet(rider, view @ joints["head"], scale * height)
    rider.transform(np.eye(2), foot + scale * (view @ hip)[:2])
    return [machine, rider]


def cycle_mask(alpha: np.ndarray) -> np.ndarray:
    """What an annotator labels as a cycle: frame and wheels count with what is between them.

    Args:
        alpha: (h, w) float32 coverage; tubes are thinner than pixels.

    Returns:
        (h, w) bool.
    """
    mask = alpha >= 0.2
    side = 2 * max(1, round(0.08 * mask.shape[0])) + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), side, side, side, side, 0)
    return cv2.morphologyEx(padded, cv2.MORPH_CLOSE, kernel)[side:-side, side:-side] > 0


def _helmet(rider: Solid, head: np.ndarray, size: float) -> None:
    """Covers the upper half of the head with a shell."""
    shell = ellipse((head[0], head[1] - 0.018), (0.078, 0.078), n=18)
    shell[:, 1] = np.minimum(shell[:, 1], head[1] + 0.012)
    rider.parts.append(Part((shell * size).astype(np.float32), DARK))
