"""One picture: the street, what hides what, the polygons as Cityscapes has them, the photograph.

Polygons are the outlines of whole things, drawn back to front, so that later ones hide earlier
ones; the labels of pixels are what ``cityscapesscripts`` makes of them.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import cv2
import numpy as np
from cityscapesscripts.helpers.annotation import Annotation, CsPoly, Point
from cityscapesscripts.helpers.labels import name2label
from cityscapesscripts.preparation.json2instanceImg import createInstanceImage

from mask_rcnn_embedded.cityscapes.spec import THING_CLASSES, CityscapesSpec
from mask_rcnn_embedded.cityscapes.street import (
    Element,
    cast_ground_shadow,
    furniture,
    ground,
    make_street,
    paint_sky,
    plain,
    skyline,
)
from mask_rcnn_embedded.cityscapes.traffic import Traffic, fill_street
from mask_rcnn_embedded.drawing.camera import Camera
from mask_rcnn_embedded.drawing.figures import cycle_mask
from mask_rcnn_embedded.drawing.photograph import photograph
from mask_rcnn_embedded.drawing.solid import Part, Raster, ellipse, paint, rasterize
from mask_rcnn_embedded.drawing.textures import random_color

_LABELLED_PERSON = 26.0  # pixels; how tall the farthest pedestrians are
_LEAST_OF_SELF = 0.2  # things of which less is inside the picture are not placed


@dataclasses.dataclass
class StreetScene:
    """A finished picture and its objects.

    Args:
        image: (H, W, 3) uint8 BGR.
        objects: ``{"label", "polygon"}`` in the order of drawing, as in ``*_polygons.json``;
            polygons are lists of [column, row] of pixel centres.
    """

    image: np.ndarray
    objects: list[dict[str, Any]]


@dataclasses.dataclass
class _Drawn:
    """An element with its raster; ``mask`` is (h, w) bool, what of it is labelled."""

    element: Element
    raster: Raster
    mask: np.ndarray


def _bearings(box: tuple[float, float, float, float]) -> tuple[float, float]:
    """Between which angles to the right of straight ahead a footprint is seen, in radians."""
    x0, y0, x1, y1 = box
    ahead = max(y0, 0.05)
    angles = [math.atan2(x, y) for x in (x0, x1) for y in (ahead, max(y1, 0.05))]
    return min(angles), max(angles)


def _distance(angle: float, box: tuple[float, float, float, float]) -> float:
    """Where the line of sight at an angle first meets a footprint, in metres; else infinity."""
    enter, leave = 0.0, math.inf
    dx, dy = math.sin(angle), math.cos(angle)
    for d, low, high in ((dx, box[0], box[2]), (dy, box[1], box[3])):
        if abs(d) < 1e-9:
            if not low <= 0.0 <= high:
                return math.inf
            continue
        a, b = (low / d, high / d) if d > 0 else (high / d, low / d)
        enter, leave = max(enter, a), min(leave, b)
    return enter if enter <= leave else math.inf


def _sees_behind(a: Element, b: Element, span: tuple[float, float]) -> bool:
    """Whether ``a`` is at least as far as ``b`` where both are seen, between two angles."""
    for share in (0.5, 0.2, 0.8):
        angle = span[0] + share * (span[1] - span[0])
        far, near = _distance(angle, a.footprint), _distance(angle, b.footprint)
        if far < math.inf and near < math.inf:
            return far >= near
    return a.footprint[1] >= b.footprint[1]


def back_to_front(elements: list[Element]) -> list[Element]:
    """Elements in the order of drawing: by distance, but behind whatever hides them."""
    order = sorted(elements, key=lambda e: -(e.footprint[1] + 0.02 * e.footprint[3]))
    spans = [_bearings(element.footprint) for element in order]
    pending = list(range(len(order)))
    hides: dict[int, set[int]] = {i: set() for i in pending}  # what must be drawn before i
    for i in pending:
        for j in pending[i + 1 :]:
            span = max(spans[i][0], spans[j][0]), min(spans[i][1], spans[j][1])
            if span[0] >= span[1]:
                continue
            if _sees_behind(order[i], order[j], span):
                hides[j].add(i)
            else:
                hides[i].add(j)
    done: list[int] = []
    while pending:
        # Cycles are rare and harmless: then the farthest goes first.
        ready = next((i for i in pending if not hides[i] & set(pending)), pending[0])
        pending.remove(ready)
        done.append(ready)
    return [order[i] for i in done]


def outline(mask: np.ndarray) -> np.ndarray | None:
    """The outer outline of a mask as one polygon of pixel centres.

    Pieces are joined by closing the gaps between them; holes belong to the thing, as Cityscapes'
    annotators have it.

    Args:
        mask: (h, w) bool.

    Returns:
        (n, 2) int, n >= 3, column and row; None if nothing worth a polygon is there.
    """
    image = mask.astype(np.uint8)
    side = 1
    while True:
        contours, _ = cv2.findContours(image, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        contours = [c for c in contours if len(c) >= 3]
        if not contours:
            return None
        sizes = np.array([cv2.contourArea(c) + len(c) for c in contours])
        if len(contours) == 1 or sizes.max() > 0.97 * sizes.sum() or side > 15:
            break
        side += 2
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
        padded = cv2.copyMakeBorder(mask.astype(np.uint8), side, side, side, side, 0)
        image = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, kernel)[side:-side, side:-side]
        image = np.ascontiguousarray(image)
    largest = contours[int(np.argmax(sizes))]
    # Small things keep every corner; larger ones may be off by half a pixel.
    points = cv2.approxPolyDP(largest, 0.3 if sizes.max() < 400 else 0.6, True)[:, 0]
    return points if len(points) >= 3 else None


def _mask(element: Element, raster: Raster) -> np.ndarray:
    """(h, w) bool of what an annotator would label as the element."""
    if element.label in ("bicycle", "motorcycle", "bicyclegroup"):
        return cycle_mask(raster.alpha)
    return raster.alpha >= 0.5


def _drawn(element: Element, camera: Camera) -> _Drawn | None:
    raster = rasterize(element.solid, camera.width, camera.height)
    if raster is None:
        return None
    if element.unit:
        x0, y0, x1, y1 = element.solid.bounds()
        h, w = raster.size
        if h * w < _LEAST_OF_SELF * (x1 - x0) * (y1 - y0):
            return None
    return _Drawn(element, raster, _mask(element, raster))


def _object(label: str, points: np.ndarray) -> dict[str, Any]:
    return {"label": label, "polygon": [[int(x), int(y)] for x, y in points]}


def _objects(drawn: list[_Drawn], camera: Camera) -> list[tuple[int, dict[str, Any]]]:
    """Annotated objects back to front, each with the unit that it belongs to (0: none).

    A group is one object; it is drawn where its frontmost member is.
    """
    objects: list[tuple[int, dict[str, Any]]] = []
    last = {d.element.group: k for k, d in enumerate(drawn) if d.element.group}
    unions: dict[int, np.ndarray] = {}
    for k, item in enumerate(drawn):
        element, raster = item.element, item.raster
        if element.label is None:
            continue
        mask, offset = item.mask, np.array([raster.x0, raster.y0])
        if element.group:
            union = unions.setdefault(
                element.group, np.zeros((camera.height, camera.width), dtype=bool)
            )
            h, w = raster.size
            union[raster.y0 : raster.y0 + h, raster.x0 : raster.x0 + w] |= mask
            if last[element.group] != k:
                continue
            mask, offset = union, np.zeros(2, dtype=int)
        points = outline(mask)
        if points is not None:
            objects.append((element.unit, _object(element.label, points + offset)))
    return objects


def to_annotation(objects: list[dict[str, Any]], width: int, height: int) -> Annotation:
    """The objects as ``cityscapesscripts`` holds them."""
    annotation = Annotation()
    annotation.imgWidth, annotation.imgHeight = width, height
    for content in objects:
        polygon = CsPoly()
        polygon.label = content["label"]
        polygon.polygon = [Point(x, y) for x, y in content["polygon"]]
        annotation.objects.append(polygon)
    return annotation


def _hidden_units(
    objects: list[tuple[int, dict[str, Any]]], camera: Camera, spec: CityscapesSpec
) -> set[int]:
    """Units with an instance or a group of which too little can be seen."""
    plain_objects = [content for _, content in objects]
    size = (camera.width, camera.height)
    ids = np.asarray(createInstanceImage(to_annotation(plain_objects, *size), "ids"))
    values, counts = np.unique(ids, return_counts=True)
    seen = dict(zip(values.tolist(), counts.tolist(), strict=True))
    numbers: dict[str, int] = {}
    hidden: set[int] = set()
    for unit, content in objects:
        label = content["label"]
        name = label.removesuffix("group")
        if name not in THING_CLASSES:
            continue
        value = name2label[name].id  # of a group; there is at most one in a picture
        if label == name:
            value = value * 1000 + numbers.get(name, 0)
            numbers[name] = numbers.get(name, 0) + 1
        alone = np.asarray(createInstanceImage(to_annotation([content], *size), "ids")) > 0
        least = max(spec.min_pixels, spec.min_visible * np.count_nonzero(alone))
        if seen.get(value, 0) < least:
            hidden.add(unit)
    return hidden


def _frame(rng: np.random.Generator, camera: Camera) -> list[Element]:
    """The bonnet of the own car; where it is seen belongs to the camera."""
    w, h = camera.width, camera.height
    rise = rng.uniform(0.045, 0.08) * h
    t = np.linspace(-1.0, 1.0, 30)
    top = np.stack([0.5 * w * (1 + 1.1 * t), h - rise * (1.0 - 0.75 * t**4)], axis=1)
    shape = np.concatenate([top, [[1.1 * w, h + 5.0], [-0.1 * w, h + 5.0]]]).astype(np.float32)
    star = ellipse((0.5 * w, h - rise), (0.012 * h, 0.016 * h), n=10)
    color = np.full(3, rng.uniform(25.0, 60.0), dtype=np.float32)
    solid = plain(rng, color, [Part(star, 1), Part(shape, 0)], h, 0.02)
    solid.relief = 0.8
    return [Element("ego vehicle", solid, (-1.0, 0.0, 1.0, 0.1))]


def _borders(width: int, height: int) -> list[dict[str, Any]]:
    """The rim of the picture that Cityscapes leaves out: black columns, and what is near them."""
    t = max(1, round(height / 200))
    right, bottom = width - 1, height - 1
    strips = {
        "rectification border": [(0, 0, t - 1, bottom)],
        "out of roi": [(0, 0, right, t - 1), (right - t + 1, 0, right, bottom)],
    }
    return [
        _object(label, np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]))
        for label, boxes in strips.items()
        for x0, y0, x1, y1 in boxes
    ]


def make_camera(rng: np.random.Generator, spec: CityscapesSpec) -> Camera:
    """A camera like that of Cityscapes: about 50 degrees wide, a little above the bonnet."""
    return Camera(
        width=spec.width,
        height=spec.height,
        focal=spec.width * rng.uniform(0.95, 1.1),
        horizon=spec.height * rng.uniform(0.38, 0.46),
        elevation=rng.uniform(1.35, 1.75),
    )


def make_scene(rng: np.random.Generator, spec: CityscapesSpec, index: int) -> StreetScene:
    """Plans, draws and photographs one street.

    Args:
        spec: what kind of data set the picture is for.
        index: number of the picture in its split, which decides what it features.
    """
    camera = make_camera(rng, spec)
    reach = camera.focal * 1.75 / _LABELLED_PERSON
    street = make_street(rng, reach)
    theme = [random_color(rng) for _ in range(4)]
    traffic = Traffic(rng, camera, street, reach, theme)
    fill_street(traffic, rng, spec, index)
    image = paint_sky(rng, camera)
    haze = image[:, int(camera.horizon) - 1].mean(axis=1)
    floor = [skyline(rng, camera), *ground(rng, camera, street), *traffic.tracks]
    standing = back_to_front(furniture(rng, camera, street, reach) + traffic.elements)
    drawn = [
        d
        for element in floor + standing + _frame(rng, camera)
        if (d := _drawn(element, camera)) is not None
    ]
    # A unit of which a part is outside of the picture is taken out as a whole, groups excepted.
    whole = {e.unit: 0 for e in standing if e.unit and not e.group}
    for element in standing:
        if element.unit in whole:
            whole[element.unit] += 1
    for d in drawn:
        if d.element.unit in whole:
            whole[d.element.unit] -= 1
    missing = {unit for unit, left in whole.items() if left}
    drawn = [d for d in drawn if d.element.unit not in missing]
    # Taking things out only uncovers others: one pass is enough.
    hidden = _hidden_units(_objects(drawn, camera), camera, spec)
    drawn = [d for d in drawn if not d.element.unit or d.element.unit not in hidden]
    _paint(rng, image, camera, drawn, haze)
    sky = np.array([[0, 0], [camera.width - 1, 0], [camera.width - 1, camera.height - 1]])
    sky = np.concatenate([sky, [[0, camera.height - 1]]])
    objects = [_object("sky", sky), *(content for _, content in _objects(drawn, camera))]
    picture = photograph(rng, image)
    picture[:, : max(1, round(camera.height / 200))] = 0
    return StreetScene(picture, objects + _borders(camera.width, camera.height))


def _paint(
    rng: np.random.Generator,
    image: np.ndarray,
    camera: Camera,
    drawn: list[_Drawn],
    haze: np.ndarray,
) -> None:
    """Draws the elements into the sky, in place: far ones paler, each with its shadow."""
    angle = rng.uniform(-0.8, -0.2) * np.pi  # light comes from above
    light = np.array([np.cos(angle), np.sin(angle)])
    dark = float(rng.uniform(0.25, 0.6))
    thickness = rng.uniform(60.0, 200.0)  # metres after which haze prevails
    shadows_due = True
    for item in drawn:
        element = item.element
        if shadows_due and element.footprint[1] > 0.0 and element.footprint[0] > -100.0:
            shadows_due = False
            for other in drawn:
                if other.element.unit:
                    cast_ground_shadow(image, camera, other.element.footprint, dark)
        near = element.footprint[1]
        if 0.0 < near < 300.0:
            veil = 1.0 - np.exp(-near / thickness)
            palette = element.solid.palette
            element.solid.palette = (palette + 0.6 * veil * (haze - palette)).astype(np.float32)
        paint(image, element.solid, item.raster, light, None)


def render(spec: CityscapesSpec, split: str, index: int) -> StreetScene:
    """One picture with its polygons."""
    return make_scene(spec.image_rng(split, index), spec, index)
