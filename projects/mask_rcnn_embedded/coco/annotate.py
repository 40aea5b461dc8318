"""From a scene to COCO annotations: polygons, boxes, areas, keypoints, crowd regions.

Polygons have no holes in COCO. A region with a hole is cut along columns that run through its
holes; the pieces touch each other and together are exactly the region.
"""

from __future__ import annotations

import itertools
from typing import Any

import cv2
import numpy as np

from mask_rcnn_embedded.coco.scene import Scene
from mask_rcnn_embedded.coco.spec import CATEGORIES
from mask_rcnn_embedded.drawing.solid import SS

MIN_KEYPOINT_HEIGHT = 40.0
"""Persons whose visible box is lower have no labelled keypoints, as small ones in COCO."""

_MIN_FRAGMENT = 2.0  # image pixels; smaller pieces of a mask get no polygon
_MIN_HOLE = 1.0  # image pixels; smaller holes are filled

_CATEGORY_IDS = {category["name"]: int(category["id"]) for category in CATEGORIES}


def _outlines(mask: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Outer outlines and outlines of holes of a fine mask, in corners of fine pixels.

    ``findContours`` runs through the centres of boundary pixels. Grown by one pixel to the right
    and down, these centres are the corners of the original pixels: the outline is exact.
    """
    h, w = mask.shape
    grown = np.zeros((h + 3, w + 3), dtype=np.uint8)
    grown[1 : h + 1, 1 : w + 1] = mask
    grown[2 : h + 2, 1 : w + 1] |= mask
    grown[1 : h + 2, 2 : w + 2] |= grown[1 : h + 2, 1 : w + 1]
    contours, hierarchy = cv2.findContours(grown, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    outer: list[np.ndarray] = []
    holes: list[np.ndarray] = []
    for contour, node in zip(contours, hierarchy[0] if len(contours) else (), strict=True):
        (holes if node[3] >= 0 else outer).append(contour[:, 0] - 1)
    return outer, holes


def _cut_columns(holes: list[np.ndarray]) -> list[int]:
    """Fewest columns so that each hole has one well inside of it."""
    spans = sorted(
        (
            (float(h[:, 0].min() * 0.7 + h[:, 0].max() * 0.3),
             float(h[:, 0].min() * 0.3 + h[:, 0].max() * 0.7))
            for h in holes
        ),
        key=lambda span: span[1],
    )  # fmt: skip
    cuts: list[int] = []
    for low, high in spans:
        if not cuts or cuts[-1] < low:
            cuts.append(round(high))
    return cuts


def region_polygons(mask: np.ndarray) -> tuple[list[np.ndarray], float]:
    """Polygons of a fine mask.

    Args:
        mask: (h, w) uint8 of zeros and ones, SS fine pixels a pixel.

    Returns:
        Polygons, each (n, 2) float in image pixels relative to the mask's corner, n >= 3, and the
        area in image pixels that they cover (fragments below 2 pixels are left out). An empty mask
        gives no polygon and area 0.
    """
    outer, holes = _outlines(mask)
    fine = float(SS**2)
    holes = [h for h in holes if cv2.contourArea(h) >= _MIN_HOLE * fine]
    if holes:
        cuts = [0, *_cut_columns(holes), mask.shape[1]]
        outer = []
        for left, right in itertools.pairwise(cuts):
            pieces, _ = _outlines(np.ascontiguousarray(mask[:, left:right]))
            outer += [piece + np.array([left, 0]) for piece in pieces]
    polygons, area = [], cv2.countNonZero(mask) / fine
    # Tolerance in fine pixels: a fifth of a pixel for small regions, a little more for large ones.
    tolerance = 0.75 if mask.size < (64 * SS) ** 2 else 0.9 if mask.size < (110 * SS) ** 2 else 1.2
    for contour in outer:
        size = cv2.contourArea(contour) / fine
        if size < _MIN_FRAGMENT:
            area -= size
            continue
        points = cv2.approxPolyDP(contour.astype(np.int32)[:, None], tolerance, True)[:, 0]
        if len(points) < 3:
            area -= size
            continue
        polygons.append(points.astype(np.float64) / SS)
    return polygons, (area if polygons else 0.0)


def uncompressed_rle(mask: np.ndarray) -> dict[str, Any]:
    """COCO's uncompressed run lengths of a (H, W) binary mask, by columns, zeros first."""
    flat = np.concatenate([[0], np.asarray(mask != 0, dtype=np.int8).reshape(-1, order="F")])
    changes = np.flatnonzero(np.diff(flat)) if flat.size else np.zeros(0, dtype=np.int64)
    counts = np.diff(np.concatenate([[0], changes, [mask.size]]))
    return {"counts": [int(c) for c in counts], "size": [int(mask.shape[0]), int(mask.shape[1])]}


def _round(value: float) -> float:
    return round(float(value), 2)


def _keypoints(scene: Scene, index: int, box_height: float) -> tuple[list[float], int]:
    """COCO's list of 51 numbers and the number of labelled keypoints."""
    solid, raster = scene.solids[index], scene.rasters[index]
    flat: list[float] = [0] * 51
    if solid.keypoints is None or box_height < MIN_KEYPOINT_HEIGHT:
        return flat, 0
    assert solid.keypoint_hidden is not None
    rows, cols = scene.owner.shape
    labelled = 0
    for k, (x, y) in enumerate(solid.keypoints):
        col, row = int(np.floor(x * SS)), int(np.floor(y * SS))
        if not (0 <= col < cols and 0 <= row < rows):
            continue
        visible = 1
        if scene.owner[row, col] == index + 1 and not solid.keypoint_hidden[k]:
            label = int(raster.labels[row - raster.y0 * SS, col - raster.x0 * SS])
            if solid.parts[label - 1].name in solid.keypoint_parts[k]:
                visible = 2
        flat[3 * k : 3 * k + 3] = [_round(x), _round(y), visible]
        labelled += 1
    return flat, labelled


def _crowd_annotation(scene: Scene, members: list[int]) -> dict[str, Any] | None:
    """One region around all members of the crowd, without what belongs to other instances."""
    group = np.zeros(256, dtype=np.uint8)
    group[[m + 1 for m in members]] = 1
    region = group[scene.owner[SS // 2 :: SS, SS // 2 :: SS]]
    extent = float(np.median([np.sqrt(scene.rasters[m].area) for m in members]))
    width = 2 * max(1, round(0.5 * extent)) + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width))
    pad = width
    padded = cv2.copyMakeBorder(region, pad, pad, pad, pad, cv2.BORDER_CONSTANT, value=0)
    closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, kernel)[pad:-pad, pad:-pad]
    others = np.zeros(256, dtype=np.uint8)
    for k, solid in enumerate(scene.solids):
        others[k + 1] = solid.category is not None and not solid.crowd
    closed[others[scene.owner[SS // 2 :: SS, SS // 2 :: SS]] > 0] = 0
    if not closed.any():
        return None
    x, y, w, h = cv2.boundingRect(closed)
    return {
        "category_id": _CATEGORY_IDS[str(scene.solids[members[0]].category)],
        "segmentation": uncompressed_rle(closed),
        "area": float(np.count_nonzero(closed)),
        "bbox": [float(x), float(y), float(w), float(h)],
        "iscrowd": 1,
    }


def annotate(scene: Scene) -> list[dict[str, Any]]:
    """COCO annotations of a scene, without ``id`` and ``image_id``.

    Persons carry ``keypoints`` and ``num_keypoints`` besides COCO's instance fields. ``area`` and
    ``bbox`` are those of the visible part, to a quarter of a pixel.
    """
    annotations: list[dict[str, Any]] = []
    crowd = [k for k, solid in enumerate(scene.solids) if solid.crowd]
    for index, (solid, raster) in enumerate(zip(scene.solids, scene.rasters, strict=True)):
        if solid.category is None or solid.crowd:
            continue
        mask = (scene.owner[raster.fine_window()] == index + 1).astype(np.uint8)
        polygons, area = region_polygons(mask)
        if not polygons:
            continue
        offset = np.array([raster.x0, raster.y0], dtype=np.float64)
        polygons = [p + offset for p in polygons]
        low = np.min([p.min(axis=0) for p in polygons], axis=0)
        high = np.max([p.max(axis=0) for p in polygons], axis=0)
        annotation: dict[str, Any] = {
            "category_id": _CATEGORY_IDS[solid.category],
            "segmentation": [p.reshape(-1).tolist() for p in polygons],
            "area": _round(area),
            "bbox": [_round(v) for v in (*low, *(high - low))],
            "iscrowd": 0,
        }
        if solid.category == "person":
            keypoints, labelled = _keypoints(scene, index, float(high[1] - low[1]))
            annotation["keypoints"], annotation["num_keypoints"] = keypoints, labelled
        annotations.append(annotation)
    if crowd:
        region = _crowd_annotation(scene, crowd)
        if region is not None:
            if region["category_id"] == _CATEGORY_IDS["person"]:
                region["keypoints"], region["num_keypoints"] = [0] * 51, 0
            annotations.append(region)
    return annotations
