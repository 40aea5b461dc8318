"""Contact sheets: pictures of the embedded data set, plain or with their annotations."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from pycocotools import mask as mask_util

from mask_rcnn_embedded.coco.spec import CATEGORIES, SKELETON
from mask_rcnn_embedded.sheet import ZOOM, put_name

_NAMES = {int(category["id"]): str(category["name"]) for category in CATEGORIES}

_HUES = {category: 180 * k // len(_NAMES) for k, category in enumerate(_NAMES)}


def _color(category: int) -> tuple[int, int, int]:
    """BGR; one hue per class."""
    pixel = np.array([[[_HUES[category], 190, 255]]], np.uint8)
    blue, green, red = cv2.cvtColor(pixel, cv2.COLOR_HSV2BGR)[0, 0]
    return int(blue), int(green), int(red)


def draw_annotations(image: np.ndarray, annotations: list[dict[str, Any]]) -> np.ndarray:
    """Draws masks, names and keypoints.

    Filled dots are visible keypoints, rings hidden ones; the person's left is green, right red.

    Args:
        image: (H, W, 3) uint8 BGR.
        annotations: COCO annotations of the image.

    Returns:
        (ZOOM*H, ZOOM*W, 3) uint8 BGR.
    """
    size = (image.shape[1] * ZOOM, image.shape[0] * ZOOM)
    canvas = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
    for annotation in annotations:
        color = _color(annotation["category_id"])
        overlay = canvas.copy()
        if annotation["iscrowd"]:
            rle = annotation["segmentation"]
            mask = mask_util.decode(mask_util.frPyObjects(rle, *rle["size"]))
            big = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)
            overlay[big > 0] = color
        else:
            # Integer coordinates of OpenCV are the centers of pixels, COCO's are corners.
            points = [
                np.round((np.array(p).reshape(-1, 2) * ZOOM - 0.5) * 16).astype(np.int32)
                for p in annotation["segmentation"]
            ]
            cv2.fillPoly(overlay, points, color, shift=4)
        canvas = cv2.addWeighted(overlay, 0.35, canvas, 0.65, 0.0)
        if not annotation["iscrowd"]:
            cv2.polylines(canvas, points, True, color, 1, cv2.LINE_AA, 4)
        name = _NAMES[annotation["category_id"]] + (" crowd" if annotation["iscrowd"] else "")
        left, top = (int(v * ZOOM) for v in annotation["bbox"][:2])
        put_name(canvas, name, left, top, color)
    for annotation in annotations:
        if annotation.get("num_keypoints"):
            _draw_keypoints(canvas, np.array(annotation["keypoints"]).reshape(17, 3))
    return canvas


def _draw_keypoints(canvas: np.ndarray, keypoints: np.ndarray) -> None:
    spots = np.round((keypoints[:, :2] * ZOOM - 0.5) * 16).astype(int)
    for a, b in SKELETON:
        if keypoints[a - 1, 2] and keypoints[b - 1, 2]:
            ends = [tuple(int(v) for v in spots[k - 1]) for k in (a, b)]
            cv2.line(canvas, ends[0], ends[1], (255, 255, 255), 1, cv2.LINE_AA, 4)
    for k, (spot, flag) in enumerate(zip(spots, keypoints[:, 2], strict=True)):
        if flag:
            color = (255, 255, 255) if k == 0 else (80, 255, 80) if k % 2 else (80, 80, 255)
            thickness = -1 if flag == 2 else 1
            at = (int(spot[0]), int(spot[1]))
            cv2.circle(canvas, at, 40, color, thickness, cv2.LINE_AA, 4)
