"""Perspective: a camera above the road, and flat-faced bodies in three dimensions seen by it.

World frame in metres: X to the right, Y ahead, Z up; the camera stands above the origin. Body
frame in metres: x forward, y to the left, z up. Image frame in pixels: u right, v down.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from mask_rcnn_embedded.drawing.solid import Part

_NEXT, _LAST = [1, 2, 0], [2, 0, 1]

NEAR = 1.5
"""Nothing is drawn closer to the camera than this, in metres."""


@dataclasses.dataclass(frozen=True)
class Camera:
    """A pinhole camera that looks along the road.

    Args:
        width: of the image in pixels.
        height: of the image in pixels.
        focal: focal length in pixels.
        horizon: row of the horizon in pixels.
        elevation: height above the ground in metres.
    """

    width: int
    height: int
    focal: float
    horizon: float
    elevation: float

    def scale(self, ahead: float) -> float:
        """Pixels a metre at a distance ahead in metres."""
        return self.focal / max(ahead, NEAR)

    def project(self, points: np.ndarray) -> np.ndarray:
        """World points (n, 3) to image points (n, 2) float32; closer ones are moved to NEAR."""
        ahead = np.maximum(points[:, 1], NEAR)
        u = 0.5 * self.width + self.focal * points[:, 0] / ahead
        v = self.horizon + self.focal * (self.elevation - points[:, 2]) / ahead
        return np.stack([u, v], axis=1).astype(np.float32)

    def ground(self, x: float, ahead: float) -> np.ndarray:
        """(2,) image point of a point on the ground."""
        return self.project(np.array([[x, ahead, 0.0]]))[0]


@dataclasses.dataclass
class Face:
    """A flat piece of a body, seen from the side to which its normal points.

    Args:
        points: (n, 3) body frame, counterclockwise for who sees it.
        tone: row of the palette.
        details: pieces on its surface, as (points, tone), back to front.
    """

    points: np.ndarray
    tone: int
    details: list[tuple[np.ndarray, int]] = dataclasses.field(default_factory=list)

    def patch(self, x0: float, x1: float, y0: float, y1: float, tone: int) -> None:
        """Adds a piece between shares x0..x1 along and y0..y1 across a four-sided face.

        Shares count from the first vertex to the second (along) and to the fourth (across).
        """
        weights = [
            ((1 - s) * (1 - t), s * (1 - t), s * t, (1 - s) * t)
            for s, t in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))
        ]
        self.details.append((np.array(weights) @ self.points, tone))


Layer = list[list[Face]]
"""Convex blocks of a body beside each other; layers lie on top of each other."""


def box(x0: float, x1: float, half: float, z0: float, z1: float, tones: tuple[int, int, int]) -> (
    dict[str, Face]
):  # fmt: skip
    """A box from x0 to x1, 2 * half wide; faces ``left``, ``right``, ``front``, ``back``, ``top``.

    Each face's first edge runs along its lower side from left to right for who sees it.

    Args:
        x0: rear end.
        x1: front end.
        half: half width.
        z0: bottom.
        z1: top.
        tones: of the sides, of front and back, of the top.
    """

    def face(corners: list[tuple[float, float, float]], tone: int) -> Face:
        return Face(np.array(corners, dtype=np.float64), tone)

    return {
        "left": face([(x1, half, z0), (x0, half, z0), (x0, half, z1), (x1, half, z1)], tones[0]),
        "right": face(
            [(x0, -half, z0), (x1, -half, z0), (x1, -half, z1), (x0, -half, z1)], tones[0]
        ),
        "front": face([(x1, -half, z0), (x1, half, z0), (x1, half, z1), (x1, -half, z1)], tones[1]),
        "back": face([(x0, half, z0), (x0, -half, z0), (x0, -half, z1), (x0, half, z1)], tones[1]),
        "top": face([(x0, -half, z1), (x1, -half, z1), (x1, half, z1), (x0, half, z1)], tones[2]),
    }


def shear_top(
    block: dict[str, Face], rear: float, front: float, narrow: float = 1.0
) -> dict[str, Face]:
    """Moves the upper edge of a box: its rear end by ``rear``, its front end by ``front`` metres.

    Args:
        block: from :func:`box`, without details.
        rear: forward, so that the back slopes.
        front: forward; negative for a sloping windscreen.
        narrow: width of the top as a share of the bottom's.

    Returns:
        The same box, changed in place.
    """
    top = block["top"].points
    high, back, ahead = top[0, 2], top[:, 0].min(), top[:, 0].max()
    for face in block.values():
        for point in face.points:
            if point[2] == high:
                if point[0] == back:
                    point[0] += rear
                elif point[0] == ahead:
                    point[0] += front
                point[1] *= narrow
    return block


def wheel(x: float, y: float, radius: float, tones: tuple[int, int]) -> Face:
    """A wheel on the side of a body: tyre and hub, facing outward."""
    t = np.linspace(0.0, 2.0 * np.pi, 16, endpoint=False)
    turn = -1.0 if y > 0 else 1.0

    def disc(r: float) -> np.ndarray:
        circle = [x + turn * r * np.cos(t), np.full_like(t, y), radius + r * np.sin(t)]
        return np.stack(circle, axis=1)

    return Face(disc(radius), tones[0], [(disc(0.6 * radius), tones[1])])


def to_world(points: np.ndarray, position: np.ndarray, heading: float) -> np.ndarray:
    """Body points (n, 3) to the world; heading 0 looks ahead, pi / 2 to the right."""
    c, s = np.cos(heading), np.sin(heading)
    x, y, z = points.T
    return np.stack([position[0] + s * x - c * y, position[1] + c * x + s * y, z], axis=1)


def project_body(
    layers: list[Layer], camera: Camera, position: np.ndarray, heading: float
) -> list[Part]:
    """The visible faces as parts in image coordinates, back to front.

    Args:
        layers: of the body, later ones on top; within a layer the nearer block is on top.
        camera: who sees them.
        position: (2,) X and Y of the body's origin.
        heading: see :func:`to_world`.

    Returns:
        Parts; faces that turn away from the camera are left out.
    """
    eye = np.array([0.0, 0.0, camera.elevation])
    faces = [face for layer in layers for block in layer for face in block]
    # All points at once: numpy's calls cost more than the arithmetic.
    flat = [points for face in faces for points in (face.points, *(p for p, _ in face.details))]
    world = to_world(np.concatenate(flat), position, heading)
    borders = np.cumsum([len(points) for points in flat])[:-1]
    seen = iter(np.split(camera.project(world), borders))
    corners = iter(np.split(world, borders))
    parts: list[Part] = []
    for layer in layers:
        blocks: list[tuple[float, list[Part]]] = []
        for block in layer:
            drawn: list[tuple[float, list[Part]]] = []
            for face in block:
                pieces = [
                    Part(next(seen), tone) for tone in (face.tone, *(t for _, t in face.details))
                ]
                outline = next(corners)
                for _ in face.details:
                    next(corners)
                sight = eye - outline.mean(axis=0)
                a, b = outline[1] - outline[0], outline[2] - outline[1]
                normal = a[_NEXT] * b[_LAST] - a[_LAST] * b[_NEXT]  # as np.cross, which is slow
                if normal @ sight > 0 and outline[:, 1].max() > NEAR:
                    drawn.append((float(np.linalg.norm(sight)), pieces))
            drawn.sort(key=lambda item: -item[0])
            nearest = drawn[-1][0] if drawn else 0.0
            blocks.append((nearest, [part for _, pieces in drawn for part in pieces]))
        blocks.sort(key=lambda item: -item[0])
        parts += [part for _, pieces in blocks for part in pieces]
    return parts
