"""The articulated person: joints in three dimensions, parts ordered by depth, 17 keypoints.

Body frame: X to the person's own left, Y down, Z to the front; a unit is the body height. Seen
from the front (yaw 0) the person's left is on the right of the image, as in a photograph.
"""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

from mask_rcnn_embedded.drawing.solid import Part, Stroke, ellipse

KEYPOINT_NAMES = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear",
    "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist",
    "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle",
)  # fmt: skip
"""The 17 keypoints in COCO's order."""

PERSON_AREA = 0.145
"""About the area of a person's mask in squared body heights."""

# Tones of the person's palette.
SKIN, HAIR, SHIRT, TROUSERS, SHOES, DARK, MOUTH, WHITE = range(8)

_CIRCLE = ellipse((0.0, 0.0), (1.0, 1.0), n=14)
_SIDES = ("left", "right")


@dataclasses.dataclass
class PersonShape:
    """A posed person in unit coordinates of the image plane.

    Args:
        parts: pieces back to front.
        strokes: lines of the face and of the clothes.
        keypoints: (17, 2) in COCO's order.
        keypoint_parts: names of the parts on which each keypoint shows.
        keypoint_hidden: (17,) bool, turned away from the viewer.
    """

    parts: list[Part]
    strokes: list[Stroke]
    keypoints: np.ndarray
    keypoint_parts: tuple[frozenset[str], ...]
    keypoint_hidden: np.ndarray


def _direction(abduction: float, flexion: float, sign: float) -> np.ndarray:
    """Unit vector of a limb: hanging down at 0, forward by flexion, outward by abduction."""
    return np.array(
        [
            sign * np.sin(abduction),
            np.cos(abduction) * np.cos(flexion),
            np.cos(abduction) * np.sin(flexion),
        ]
    )


def _leg_angles(rng: np.random.Generator, pose: str) -> list[tuple[float, float, float]]:
    """(abduction, hip flexion, knee flexion) of the left and of the right leg."""
    swing = 1.0 if rng.random() < 0.5 else -1.0
    angles = []
    for sign in (1.0, -1.0):
        spread = rng.uniform(0.0, 0.18)
        if pose == "walk":
            hip = sign * swing * rng.uniform(0.2, 0.55)
            knee = rng.uniform(0.05, 0.3) + (0.5 * rng.random() if hip < 0 else 0.0)
        elif pose == "run":
            hip = sign * swing * rng.uniform(0.45, 1.0)
            knee = rng.uniform(0.3, 0.9) + (0.7 if hip < 0 else 0.2) * rng.random()
        elif pose == "sit":
            hip, knee = rng.uniform(1.1, 1.6), rng.uniform(1.1, 1.7)
            spread = rng.uniform(0.05, 0.4)
        elif pose == "crouch":
            hip, knee = rng.uniform(1.3, 1.9), rng.uniform(1.7, 2.3)
            spread = rng.uniform(0.1, 0.5)
        elif pose == "jump":
            hip, knee = rng.normal(0.2, 0.3), abs(rng.normal(0.2, 0.4))
            spread = rng.uniform(0.25, 0.75)
        else:
            hip, knee = rng.normal(0.0, 0.1), abs(rng.normal(0.0, 0.1))
            spread = rng.uniform(0.0, 0.25)
        angles.append((spread, hip, knee))
    return angles


def _arm_angles(
    rng: np.random.Generator, pose: str, leg_flexion: tuple[float, float]
) -> list[tuple[float, float, float, float]]:
    """(abduction, shoulder flexion, elbow flexion, abduction of the forearm), left and right."""
    angles = []
    for side in range(2):
        style = rng.random()
        abduction, elbow = rng.uniform(0.05, 0.4), rng.uniform(0.0, 0.8)
        if pose in ("walk", "run") and style < 0.7:  # arms swing against the legs
            flexion = -leg_flexion[side] * rng.uniform(0.6, 1.1)
            elbow = rng.uniform(0.2, 0.7) + (0.9 if pose == "run" else 0.0)
            fore = abduction * 0.5
        elif pose == "jump" or style < 0.17:  # raised
            abduction, flexion, elbow = rng.uniform(1.7, 2.8), 0.0, 0.0
            fore = abduction + rng.uniform(-0.7, 0.5)
        elif style < 0.34:  # reaching forward
            flexion, elbow = rng.uniform(0.8, 1.7), rng.uniform(0.0, 0.8)
            fore = abduction * 0.5
        elif style < 0.5:  # out to the side, forearm anywhere
            abduction, flexion = rng.uniform(0.8, 1.6), rng.normal(0.0, 0.2)
            fore, elbow = abduction + rng.uniform(-1.9, 1.2), 0.0
        else:  # hanging
            flexion = rng.normal(0.1, 0.25)
            fore = abduction * rng.uniform(-0.4, 1.0)
        angles.append((abduction, flexion, elbow, fore))
    return angles


def random_joints(rng: np.random.Generator, pose: str | None = None) -> dict[str, np.ndarray]:
    """Joints in the body frame, in a random pose unless one is given.

    Args:
        pose: ``stand``, ``walk``, ``run``, ``sit``, ``crouch`` or ``jump``.
    """
    pose = pose or str(
        rng.choice(
            ["stand", "walk", "run", "sit", "crouch", "jump"],
            p=[0.48, 0.24, 0.08, 0.07, 0.04, 0.09],
        )
    )
    lean = rng.normal(0.25, 0.2) if pose in ("run", "crouch") else rng.normal(0.03, 0.1)
    roll = rng.normal(0.0, 0.09)
    up = np.array([np.sin(roll), -np.cos(roll) * np.cos(lean), np.cos(roll) * np.sin(lean)])
    across = np.array([np.cos(roll), np.sin(roll), 0.0])
    joints = {"pelvis": np.zeros(3), "neck": up * 0.30, "head": up * 0.415, "up": up}
    legs = _leg_angles(rng, pose)
    arms = _arm_angles(rng, pose, (legs[0][1], legs[1][1]))
    shoulder, hip = rng.uniform(0.098, 0.118), rng.uniform(0.058, 0.07)
    for k, side in enumerate(_SIDES):
        sign = 1.0 if k == 0 else -1.0
        spread, flexion, knee = legs[k]
        joints[f"{side}_hip"] = sign * across * hip
        joints[f"{side}_knee"] = joints[f"{side}_hip"] + 0.245 * _direction(spread, flexion, sign)
        shin = _direction(spread * 0.7, flexion - knee, sign)
        joints[f"{side}_ankle"] = joints[f"{side}_knee"] + 0.225 * shin
        # The foot points forward of the shin.
        toe = _direction(spread * 0.5, flexion - knee + 1.35, sign)
        joints[f"{side}_toe"] = joints[f"{side}_ankle"] + 0.02 * shin + 0.07 * toe
        abduction, flexion, elbow, fore = arms[k]
        joints[f"{side}_shoulder"] = up * 0.285 + sign * across * shoulder
        joints[f"{side}_elbow"] = joints[f"{side}_shoulder"] + 0.16 * _direction(
            abduction, flexion, sign
        )
        forearm = _direction(fore, flexion + elbow, sign)
        joints[f"{side}_wrist"] = joints[f"{side}_elbow"] + 0.145 * forearm
        joints[f"{side}_hand"] = joints[f"{side}_wrist"] + 0.035 * forearm
    return joints


def view_matrix(yaw: float, pitch: float) -> np.ndarray:
    """(3, 3) matrix from the body frame to (image x, image y, depth towards the viewer)."""
    c, s = np.cos(yaw), np.sin(yaw)
    cp, sp = np.cos(pitch), np.sin(pitch)
    turn = np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])
    tilt = np.array([[1.0, 0.0, 0.0], [0.0, cp, sp], [0.0, -sp, cp]])
    return tilt @ turn


def hull(*discs: tuple[np.ndarray, float]) -> np.ndarray:
    """(n, 2) float32 hull of discs, each with its center, whose depth is ignored, and radius."""
    points = np.concatenate([center[:2] + _CIRCLE * radius for center, radius in discs])
    return cv2.convexHull(points.astype(np.float32))[:, 0]


def _capsule(p: np.ndarray, q: np.ndarray, rp: float, rq: float) -> np.ndarray:
    return hull((p, rp), (q, rq))


def _random_view(rng: np.random.Generator) -> np.ndarray:
    """From the front more often than from behind or from the side."""
    facing = rng.random()
    if facing < 0.52:
        yaw = rng.normal(0.0, 0.4)
    elif facing < 0.74:
        yaw = np.pi + rng.normal(0.0, 0.4)
    else:
        yaw = (np.pi / 2 if rng.random() < 0.5 else -np.pi / 2) + rng.normal(0.0, 0.3)
    return view_matrix(yaw, rng.normal(0.0, 0.1))


def make_person(
    rng: np.random.Generator,
    body: dict[str, np.ndarray] | None = None,
    view: np.ndarray | None = None,
) -> PersonShape:
    """A person about one unit tall.

    Args:
        body: joints in the body frame, as from :func:`random_joints`; None for a random pose.
        view: (3, 3) as from :func:`view_matrix`; None to see it from a random side.
    """
    view = _random_view(rng) if view is None else view
    body = random_joints(rng) if body is None else body
    joints = {name: view @ point for name, point in body.items()}
    build = rng.uniform(1.05, 1.55)
    drawn: list[tuple[float, Part]] = []

    def add(depth: float, polygon: np.ndarray, tone: int, name: str) -> None:
        drawn.append((depth, Part(polygon, tone, name)))

    sleeves, legwear = rng.random(), rng.random()
    arm_tone = SHIRT if sleeves < 0.75 else SKIN
    forearm_tone = SHIRT if sleeves < 0.45 else SKIN
    shin_tone = TROUSERS if legwear < 0.6 else SKIN
    for side in _SIDES:
        at = {k: joints[f"{side}_{k}"] for k in ("hip", "knee", "ankle", "toe")}
        thigh_depth = 0.5 * (at["hip"][2] + at["knee"][2])
        shin_depth = 0.5 * (at["knee"][2] + at["ankle"][2])
        thigh = _capsule(at["hip"], at["knee"], 0.052 * build, 0.04 * build)
        shin = _capsule(at["knee"], at["ankle"], 0.038 * build, 0.026 * build)
        add(thigh_depth, thigh, TROUSERS, f"{side}_thigh")
        add(shin_depth, shin, shin_tone, f"{side}_shin")
        foot = _capsule(at["ankle"], at["toe"], 0.03 * build, 0.022 * build)
        add(shin_depth + 1e-3, foot, SHOES, f"{side}_foot")
        at = {k: joints[f"{side}_{k}"] for k in ("shoulder", "elbow", "wrist", "hand")}
        # Arms hang a little in front of the trunk's centre plane.
        arm_depth = 0.5 * (at["shoulder"][2] + at["elbow"][2]) + 0.05
        fore_depth = 0.5 * (at["elbow"][2] + at["wrist"][2]) + 0.052
        upper = _capsule(at["shoulder"], at["elbow"], 0.036 * build, 0.029 * build)
        fore = _capsule(at["elbow"], at["wrist"], 0.029 * build, 0.021 * build)
        add(arm_depth, upper, arm_tone, f"{side}_arm")
        add(fore_depth, fore, forearm_tone, f"{side}_forearm")
        hand = _capsule(at["wrist"], at["hand"], 0.022, 0.026)
        add(fore_depth - 1e-4, hand, SKIN, f"{side}_hand")
    add(0.04, _trunk(joints, build), SHIRT, "trunk")
    if legwear > 0.85:  # a skirt from the hips to the middle of the thighs
        ends = [0.4 * joints[f"{s}_hip"] + 0.6 * joints[f"{s}_knee"] for s in _SIDES]
        hips = [joints[f"{s}_hip"] for s in _SIDES]
        skirt = hull(*((p, 0.045) for p in hips), *((p, 0.075) for p in ends))
        add(max(0.035, float(ends[0][2]), float(ends[1][2])), skirt, TROUSERS, "skirt")
    neck = _capsule(joints["neck"], joints["head"], 0.03, 0.027)
    add(0.03, neck, SKIN, "neck")
    face, strokes, hidden = _head(rng, joints, view, add)
    drawn.sort(key=lambda item: item[0])
    keypoints = np.zeros((17, 2), dtype=np.float32)
    names: list[frozenset[str]] = []
    away = np.zeros(17, dtype=bool)
    for k, keypoint in enumerate(KEYPOINT_NAMES):
        if k < 5:
            keypoints[k], away[k] = face[keypoint][:2], hidden[keypoint]
            names.append(frozenset({"face", "head", "nose", keypoint}))
            continue
        keypoints[k] = joints[keypoint][:2]
        side, joint = keypoint.split("_")
        own = {
            "shoulder": {"trunk", "neck", f"{side}_arm"},
            "elbow": {f"{side}_arm", f"{side}_forearm"},
            "wrist": {f"{side}_forearm", f"{side}_hand"},
            "hip": {"trunk", "skirt", f"{side}_thigh"},
            "knee": {"skirt", f"{side}_thigh", f"{side}_shin"},
            "ankle": {f"{side}_shin", f"{side}_foot"},
        }[joint]
        names.append(frozenset(own))
        # The far shoulder and the far hip of a person seen from the side are behind the trunk.
        if joint in ("shoulder", "hip"):
            middle = joints["neck" if joint == "shoulder" else "pelvis"]
            away[k] = joints[keypoint][2] - middle[2] < -0.045
    return PersonShape([part for _, part in drawn], strokes, keypoints, tuple(names), away)


def _trunk(joints: dict[str, np.ndarray], build: float) -> np.ndarray:
    """Hull of shoulders, chest and hips, (n, 2)."""
    chest = 0.75 * joints["neck"] + 0.25 * joints["pelvis"]
    return hull(
        *((joints[f"{side}_shoulder"], 0.034 * build) for side in _SIDES),
        (chest, 0.068 * build),
        (joints["pelvis"], 0.062 * build),
        *((joints[f"{side}_hip"], 0.045 * build) for side in _SIDES),
    )


def _head(
    rng: np.random.Generator, joints: dict[str, np.ndarray], view: np.ndarray, add: object
) -> tuple[dict[str, np.ndarray], list[Stroke], dict[str, bool]]:
    """Adds the head's parts; returns its keypoints, its strokes and which keypoints turn away."""
    assert callable(add)
    center = joints["head"]
    rx, ry = rng.uniform(0.058, 0.066), rng.uniform(0.074, 0.084)
    turn = view @ view_matrix(rng.normal(0.0, 0.35), rng.normal(0.0, 0.15))
    scale = np.array([rx, ry, rx])

    def on_head(point: tuple[float, float, float]) -> np.ndarray:
        """Point of the unit sphere (left, down, front) to the image frame, relative to center."""
        return (turn @ np.array(point)) * scale

    anatomy = {
        "nose": (0.0, 0.15, 1.05),
        "left_eye": (0.4, -0.12, 0.86),
        "right_eye": (-0.4, -0.12, 0.86),
        "left_ear": (0.98, 0.03, -0.05),
        "right_ear": (-0.98, 0.03, -0.05),
    }
    relative = {name: on_head(point) for name, point in anatomy.items()}
    # Depth in head radii: eyes vanish a little before the outline, ears a little behind it.
    limits = {"nose": -0.1, "left_eye": 0.2, "right_eye": 0.2, "left_ear": -0.3, "right_ear": -0.3}
    hidden = {name: bool(relative[name][2] / rx < limits[name]) for name in anatomy}
    depth = float(center[2]) + 0.06
    front = on_head((0.0, 0.1, 1.0))[2] / rx
    hair = rng.random()
    if hair > 0.12:  # behind and above the face
        grow = 1.1 if hair < 0.7 else 1.16
        volume = ellipse((center[0], center[1] - 0.1 * ry), (rx * grow, ry * (grow - 0.06)), n=24)
        add(depth, volume, HAIR, "hair")
        if hair > 0.7:  # long hair falls on the back: in front of the trunk if seen from behind
            back = on_head((0.0, 0.3, -0.55))
            fall = center + back + joints["up"] * -rng.uniform(0.09, 0.17)
            long = _capsule(center + back * 0.6, fall, rx * 1.05, rx * 0.8)
            add(depth + 0.08 if front < -0.2 else -0.2, long, HAIR, "hair")
    else:
        add(depth, ellipse((center[0], center[1]), (rx, ry), n=24), SKIN, "head")
    for name in ("left_ear", "right_ear"):
        spot = center[:2] + relative[name][:2]
        order = 1e-3 if relative[name][2] < 0.2 * rx else 4e-3
        add(depth + order, ellipse((spot[0], spot[1]), (rx * 0.2, ry * 0.24), n=10), SKIN, name)
    if front > -0.62:  # the face: a cap of the sphere around its front, clipped at the outline
        t = np.linspace(0.0, 2.0 * np.pi, 18, endpoint=False)
        cap = np.stack([0.87 * np.cos(t), 0.22 + 0.78 * np.sin(t), np.full_like(t, 0.34)], axis=1)
        cap /= np.linalg.norm(cap, axis=1, keepdims=True)
        turned = cap @ turn.T
        far = turned[:, 2] < 0
        turned[far, :2] /= np.linalg.norm(turned[far, :2], axis=1, keepdims=True)
        outline = center[:2] + turned[:, :2] * scale[:2]
        add(depth + 2e-3, cv2.convexHull(outline.astype(np.float32))[:, 0], SKIN, "face")
    strokes: list[Stroke] = []
    if not hidden["nose"]:
        spot = center[:2] + relative["nose"][:2] * 0.97
        add(depth + 3e-3, ellipse((spot[0], spot[1]), (rx * 0.15, ry * 0.17), n=10), SKIN, "nose")
        tip = center[:2] + relative["nose"][:2]
        side = np.array([[-0.16 * rx, 0.12 * ry], [0.16 * rx, 0.12 * ry]])
        strokes.append(Stroke((tip + side).astype(np.float32), 0.012, -0.3))
    for name in ("left_eye", "right_eye"):
        if hidden[name]:
            continue
        spot = center[:2] + relative[name][:2]
        white = ellipse((spot[0], spot[1]), (rx * 0.21, ry * 0.13), n=10)
        add(depth + 5e-3, white, WHITE, name)
        add(depth + 6e-3, ellipse((spot[0], spot[1]), (rx * 0.11, ry * 0.12), n=8), DARK, name)
    lips = np.array([on_head((x, 0.58, 0.78)) for x in (-0.3, 0.0, 0.3)])
    if lips[1, 2] > 0.3 * rx:
        add(
            depth + 5e-3,
            ellipse((center[0] + lips[1, 0], center[1] + lips[1, 1]), (rx * 0.26, ry * 0.06), n=8),
            MOUTH,
            "face",
        )
    points = {name: center + relative[name] for name in anatomy}
    return points, strokes, hidden
