"""Who and what is on the street: places for vehicles, cycles and pedestrians."""

from __future__ import annotations

import numpy as np

from mask_rcnn_embedded.cityscapes.spec import CityscapesSpec
from mask_rcnn_embedded.cityscapes.street import CROSSING_HALF, Element, Street, rails
from mask_rcnn_embedded.drawing.camera import Camera, project_body
from mask_rcnn_embedded.drawing.figures import cycle, pedestrian
from mask_rcnn_embedded.drawing.solid import Solid
from mask_rcnn_embedded.drawing.vehicles import VEHICLES, painted

_TRIES = 24
_RARE = {"truck": 0.22, "bus": 0.22, "train": 0.2, "motorcycle": 0.36}

Box = tuple[float, float, float, float]


class Traffic:
    """Places things on a street so that their footprints do not overlap.

    Args:
        camera: who sees them.
        street: where they are.
        reach: distance in metres up to which persons are large enough to be labelled.

    Attributes:
        elements: what has been placed, in no order.
        tracks: rails of the trains.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        camera: Camera,
        street: Street,
        reach: float,
        theme: list[np.ndarray],
    ) -> None:
        self._rng, self._camera, self._street = rng, camera, street
        self._reach, self._theme = reach, theme
        self._taken: list[Box] = []
        self._units = 0
        self._groups = 0
        self.elements: list[Element] = []
        self.tracks: list[Element] = []

    # ------------------------------------------------------------ places

    def _free(self, box: Box, margin: float) -> bool:
        x0, y0, x1, y1 = box
        return all(
            x0 - margin > t[2] or x1 + margin < t[0] or y0 - margin > t[3] or y1 + margin < t[1]
            for t in self._taken
        )

    def _in_view(self, box: Box, share: float) -> bool:
        """Whether at least ``share`` of a footprint's width in the image is inside of it."""
        x0, y0, x1, y1 = box
        corners = np.array([(x, y, 0.0) for x in (x0, x1) for y in (y0, y1)])
        u = self._camera.project(corners)[:, 0]
        inside = min(u.max(), self._camera.width) - max(u.min(), 0.0)
        return bool(inside >= share * (u.max() - u.min()))

    def _along(self, low: float, high: float) -> float:
        """A distance ahead in metres; close ones are as likely as far ones."""
        return float(np.exp(self._rng.uniform(np.log(low), np.log(high))))

    def _new_unit(self) -> int:
        self._units += 1
        return self._units

    # ------------------------------------------------------------ vehicles

    def _lane(self, category: str, length: float) -> tuple[float, float, float]:
        """X, distance of the middle, and heading in a random lane."""
        rng, street, reach = self._rng, self._street, self._reach
        crossing = street.crossing
        if crossing is not None and rng.random() < (0.3 if category == "car" else 0.6):
            right = rng.random() < 0.5  # traffic keeps to the right
            ahead = crossing + (-1.8 if right else 1.8)
            spread = 0.5 * self._camera.width / self._camera.focal * ahead + 0.15 * length
            return rng.uniform(-spread, spread), ahead, (np.pi / 2 if right else -np.pi / 2)
        large = category != "car"
        lanes = {"own": 0.22, "oncoming": 0.33, "right": 0.0 if large else 0.3, "left": 0.15}
        if large:
            lanes = {"own": 0.4, "oncoming": 0.6}
        lane = rng.choice(list(lanes), p=np.array(list(lanes.values())) / sum(lanes.values()))
        least = max(0.25 * reach + 1.0, 7.0 if large else 0.0)
        near = self._along(least, (1.0 if large else 1.3) * max(reach, 12.0)) + 0.5 * length
        own_width = street.lane_right - street.centre
        if lane == "own":
            return street.lane_right - 0.5 * own_width, near + 0.12 * reach, 0.0
        if lane == "right":
            return street.kerb_right - 1.05, near, 0.0 if rng.random() < 0.85 else np.pi
        if lane == "oncoming":
            return street.centre - 0.5 * own_width, near, np.pi
        parked = street.centre - street.kerb_left > own_width + 1.0
        return street.kerb_left + (1.05 if parked else 1.3), near, np.pi

    def vehicle(self, category: str) -> bool:
        """Places a car, truck, bus or train; returns whether there was room."""
        rng = self._rng
        made = VEHICLES[category](rng)
        for _ in range(_TRIES):
            x, ahead, heading = self._lane(category, made.length)
            crossing = abs(np.sin(heading)) > 0.5
            middle = self._street.crossing
            if not crossing and middle is not None:
                blocks = abs(ahead - middle) < CROSSING_HALF + 0.5 * made.length
                if blocks and category in ("car", "truck"):
                    continue
            half_x, half_y = 0.5 * made.width, 0.5 * made.length
            if crossing:
                half_x, half_y = half_y, half_x
            spot = (x - half_x, ahead - half_y, x + half_x, ahead + half_y)
            if spot[1] < 3.5 or not self._free(spot, 0.5) or not self._in_view(spot, 0.4):
                continue
            if category == "train":
                lane = rails(
                    rng, self._camera, None if crossing else x, ahead if crossing else None
                )
                self.tracks += lane
            elif rng.random() < 0.6:
                heading += rng.normal(0.0, 0.05)
            parts = project_body(made.layers, self._camera, np.array([x, ahead]), heading)
            if not parts:
                continue
            extent = self._camera.scale(ahead) * made.height
            self._add(category, painted(rng, parts, extent), spot)
            return True
        return False

    def _add(self, label: str, solid: Solid, spot: Box, unit: int = 0, group: int = 0) -> None:
        if not group:
            self._taken.append(spot)
        self.elements.append(Element(label, solid, spot, unit or self._new_unit(), group))

    # ------------------------------------------------------------ people and cycles

    def _pavement(self, ahead: float) -> float | None:
        """X on a pavement that is in view at a distance, or None."""
        street = self._street
        limit = 0.47 * self._camera.width / self._camera.focal * ahead
        spans = []
        for low, high in (
            (street.facade_left + 0.4, street.kerb_left - 0.3),
            (street.kerb_right + 0.3, street.facade_right - 0.4),
        ):
            low, high = max(low, -limit), min(high, limit)
            if high > low:
                spans.append((low, high))
        if not spans:
            return None
        low, high = spans[int(self._rng.integers(len(spans)))]
        return float(self._rng.uniform(low, high))

    def _road(self, ahead: float) -> float:
        limit = 0.44 * self._camera.width / self._camera.focal * ahead
        low, high = max(self._street.kerb_left, -limit), min(self._street.kerb_right, limit)
        return float(self._rng.uniform(low, high))

    def person(self) -> bool:
        """Places a pedestrian on the pavement, or now and then on the road."""
        rng = self._rng
        for _ in range(_TRIES):
            ahead = self._along(0.2 * self._reach + 1.5, self._reach)
            x = self._pavement(ahead) if rng.random() < 0.7 else self._road(ahead)
            if x is None:
                continue
            spot = (x - 0.25, ahead - 0.2, x + 0.25, ahead + 0.2)
            if not self._free(spot, 0.05):
                continue
            foot, scale = self._camera.ground(x, ahead), self._camera.scale(ahead)
            self._add("person", pedestrian(rng, foot, scale, self._theme), spot)
            return True
        return False

    def cycle(self, category: str, ridden: bool) -> bool:
        """Places a bicycle or motorcycle with or without a rider."""
        rng = self._rng
        for _ in range(_TRIES):
            ahead = self._along(0.22 * self._reach + 1.5, 0.8 * self._reach)
            x: float | None = self._road(ahead)
            if not ridden and rng.random() < 0.8:
                x = self._pavement(ahead)
            if x is None:
                continue
            if rng.random() < 0.68:  # crosses the view
                yaw = rng.choice([-0.5, 0.5]) * np.pi + rng.normal(0.0, 0.35)
            else:
                yaw = (0.0 if x < self._street.centre else np.pi) + rng.normal(0.0, 0.3)
            half = 0.35 + 0.6 * abs(float(np.sin(yaw)))
            spot = (x - half, ahead - 0.25, x + half, ahead + 0.25)
            if not self._free(spot, 0.2) or not self._in_view(spot, 0.8):
                continue
            foot, scale = self._camera.ground(x, ahead), self._camera.scale(ahead)
            solids = cycle(rng, category, foot, scale, yaw, ridden, self._theme)
            unit = self._new_unit()
            for k, solid in enumerate(solids):
                # The rider's footprint is a hair closer: it is drawn after the machine.
                near = (spot[0], spot[1] - 1e-3 * k, spot[2], spot[3] - 1e-3 * k)
                self._add(str(solid.category), solid, near, unit)
            return True
        return False

    # ------------------------------------------------------------ groups

    def group(self) -> bool:
        """Places a group of persons, cars or bicycles, too close together for single labels."""
        rng, reach = self._rng, self._reach
        category = str(rng.choice(["person", "car", "bicycle"], p=[0.45, 0.25, 0.3]))
        self._groups += 1
        for _ in range(_TRIES):
            near, far = {"person": (0.6, 1.0), "car": (0.8, 1.1), "bicycle": (0.35, 0.7)}[category]
            ahead = reach * rng.uniform(near, far)
            if category == "car":
                right = rng.random() < 0.5
                kerb = self._street.kerb_right if right else self._street.kerb_left
                x: float | None = kerb + (-1.05 if right else 1.05)
            else:
                x = self._pavement(ahead)
            if x is None:
                continue
            count = int(rng.integers(4, 8))
            step = {"person": 0.42, "car": 5.0, "bicycle": 0.5}[category]
            wide = 0.5 * step * count if category != "car" else 0.9
            deep = 0.6 if category != "car" else 0.5 * step * count
            ahead += deep if category == "car" else 0.0
            spot = (x - wide, ahead - deep, x + wide, ahead + deep)
            if not self._free(spot, 0.2):
                continue
            self._taken.append(spot)
            unit = self._new_unit()
            for k in range(count):
                self._member(category, x, ahead, (k - 0.5 * (count - 1)) * step, unit)
            return True
        return False

    def _member(self, category: str, x: float, ahead: float, offset: float, unit: int) -> None:
        rng, camera = self._rng, self._camera
        if category == "car":
            made = VEHICLES["car"](rng)
            at = ahead + offset
            spot = (x - 0.9, at - 2.2, x + 0.9, at + 2.2)
            parts = project_body(made.layers, camera, np.array([x, at]), 0.0)
            if parts:
                solid = painted(rng, parts, camera.scale(at) * made.height)
                self._add("cargroup", solid, spot, unit, self._groups)
            return
        px, at = x + offset + rng.normal(0.0, 0.08), ahead + rng.uniform(-0.4, 0.4)
        foot, scale = camera.ground(px, at), camera.scale(at)
        spot = (px - 0.2, at - 0.2, px + 0.2, at + 0.2)
        if category == "person":
            solid = pedestrian(rng, foot, scale, self._theme)
        else:
            yaw = rng.normal(0.9, 0.2)
            (solid,) = cycle(rng, "bicycle", foot, scale, yaw, False, self._theme)
        self._add(f"{category}group", solid, spot, unit, self._groups)


def fill_street(
    traffic: Traffic, rng: np.random.Generator, spec: CityscapesSpec, index: int
) -> None:
    """Places what a picture is planned with: what is featured first, then the rest.

    Args:
        traffic: where to.
        spec: how much of each.
        index: number of the picture in its split.
    """
    for category in sorted(spec.featured_classes(index), reverse=True):
        if category in ("bicycle", "motorcycle"):
            traffic.cycle(category, ridden=True)
        else:
            traffic.vehicle(category)
    if rng.random() < spec.group_fraction:
        traffic.group()
    for _ in range(int(rng.poisson(spec.mean_rare))):
        category = str(rng.choice(list(_RARE), p=list(_RARE.values())))
        if category == "motorcycle":
            traffic.cycle(category, ridden=rng.random() < 0.5)
        else:
            traffic.vehicle(category)
    for _ in range(int(rng.poisson(spec.mean_bicycles))):
        traffic.cycle("bicycle", ridden=rng.random() < 0.45)
    for _ in range(1 + int(rng.poisson(max(0.0, spec.mean_cars - 1.0)))):
        traffic.vehicle("car")
    for _ in range(1 + int(rng.poisson(max(0.0, spec.mean_persons - 1.0)))):
        traffic.person()
