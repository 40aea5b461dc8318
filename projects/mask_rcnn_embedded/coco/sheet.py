"""Contact sheets: pictures of the data set, plain and with their annotations drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mask_rcnn_embedded.coco.annotate import annotate
from mask_rcnn_embedded.coco.generate import render
from mask_rcnn_embedded.coco.spec import CATEGORIES, EmbeddedSpec
from mask_rcnn_embedded.drawing.keypoints import SKELETON
from mask_rcnn_embedded.errors import DataError

# BGR by category id; one hue a class.
_COLORS = {
    1: (60, 60, 255),
    3: (255, 160, 40),
    4: (255, 255, 60),
    7: (60, 220, 60),
    8: (255, 80, 255),
    11: (40, 220, 255),
    14: (255, 255, 255),
}
_NAMES = {int(category["id"]): str(category["name"]) for category in CATEGORIES}


def decode_uncompressed(rle: dict[str, Any]) -> np.ndarray:
    """(H, W) uint8 mask of COCO's uncompressed run lengths."""
    counts = rle["counts"]
    values = np.repeat(np.arange(len(counts)) % 2, counts).astype(np.uint8)
    height, width = rle["size"]
    return values.reshape(width, height).T


def draw_annotations(
    image: np.ndarray, annotations: list[dict[str, Any]], zoom: int = 2
) -> np.ndarray:
    """Draws masks, names and keypoints.

    Filled dots are visible keypoints, rings hidden ones; the person's left is green, right red.

    Args:
        image: (H, W, 3) uint8 BGR.
        annotations: COCO annotations of the image.
        zoom: enlargement of the result.

    Returns:
        (zoom*H, zoom*W, 3) uint8 BGR.
    """
    size = (image.shape[1] * zoom, image.shape[0] * zoom)
    canvas = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
    for annotation in annotations:
        color = _COLORS[annotation["category_id"]]
        overlay = canvas.copy()
        if annotation["iscrowd"]:
            mask = decode_uncompressed(annotation["segmentation"])
            big = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)
            overlay[big > 0] = color
        else:
            # Integer coordinates of OpenCV are centres of pixels, COCO's are corners.
            points = [
                np.round((np.array(p).reshape(-1, 2) * zoom - 0.5) * 16).astype(np.int32)
                for p in annotation["segmentation"]
            ]
            cv2.fillPoly(overlay, points, color, shift=4)
        canvas = cv2.addWeighted(overlay, 0.35, canvas, 0.65, 0.0)
        if not annotation["iscrowd"]:
            cv2.polylines(canvas, points, True, color, 1, cv2.LINE_AA, 4)
        label = _NAMES[annotation["category_id"]] + (" crowd" if annotation["iscrowd"] else "")
        x, y = annotation["bbox"][:2]
        spot = (int(x * zoom) + 1, max(9, int(y * zoom) - 2))
        cv2.putText(canvas, label, spot, cv2.FONT_HERSHEY_SIMPLEX, 0.36, (0, 0, 0), 2, cv2.LINE_AA)
        cv2.putText(canvas, label, spot, cv2.FONT_HERSHEY_SIMPLEX, 0.36, color, 1, cv2.LINE_AA)
    for annotation in annotations:
        if annotation.get("num_keypoints"):
            _draw_keypoints(canvas, np.array(annotation["keypoints"]).reshape(17, 3), zoom)
    return canvas


def _draw_keypoints(canvas: np.ndarray, keypoints: np.ndarray, zoom: int) -> None:
    spots = np.round((keypoints[:, :2] * zoom - 0.5) * 16).astype(int)
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


def _rows(images: list[np.ndarray], height: int, width: int, gap: int = 4) -> np.ndarray:
    """Images scaled to one height and set in rows about ``width`` wide."""
    rows: list[np.ndarray] = []
    row: list[np.ndarray] = []
    used = 0
    for image in images:
        scaled = cv2.resize(
            image,
            (round(image.shape[1] * height / image.shape[0]), height),
            interpolation=cv2.INTER_AREA,
        )
        if row and used + scaled.shape[1] > width:
            rows.append(_join(row, width, gap))
            row, used = [], 0
        row.append(scaled)
        used += scaled.shape[1] + gap
    if row:
        rows.append(_join(row, width, gap))
    return np.concatenate(rows) if rows else np.full((1, width, 3), 255, np.uint8)


def _join(row: list[np.ndarray], width: int, gap: int) -> np.ndarray:
    height = row[0].shape[0]
    canvas = np.full((height + gap, width, 3), 255, np.uint8)
    left = 0
    for image in row:
        part = image[:, : max(0, width - left)]
        canvas[:height, left : left + part.shape[1]] = part
        left += image.shape[1] + gap
    return canvas


def contact_sheet(
    spec: EmbeddedSpec,
    split: str = "val",
    count: int = 20,
    start: int = 0,
    annotated: bool = True,
    height: int = 200,
    width: int = 1240,
) -> np.ndarray:
    """A sheet of generated pictures; needs no files.

    Args:
        spec: which data set.
        split: which split.
        count: number of pictures.
        start: index of the first.
        annotated: whether to draw the annotations.
        height: height of each picture on the sheet in pixels.
        width: width of the sheet in pixels.

    Returns:
        (rows, width, 3) uint8 BGR.
    """
    tiles = []
    for index in range(start, min(start + count, spec.num_images(split))):
        scene, _ = render(spec, split, index)
        zoom = 2
        tiles.append(draw_annotations(scene.image, annotate(scene) if annotated else [], zoom))
    return _rows(tiles, height, width)


def write_sheet(path: str | Path, spec: EmbeddedSpec, **options: Any) -> Path:
    """Writes :func:`contact_sheet` to an image file.

    Raises:
        DataError: the file cannot be written or its suffix is none of an image.
    """
    path = Path(path)
    sheet = contact_sheet(spec, **options)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        quality = [cv2.IMWRITE_JPEG_QUALITY, 85] if path.suffix.lower() in (".jpg", ".jpeg") else []
        if not cv2.imwrite(str(path), sheet, quality):
            raise DataError(f"cannot write the sheet {path}")
    except (OSError, cv2.error) as error:
        raise DataError(f"cannot write the sheet {path}: {error}; use .png or .jpg") from error
    return path
