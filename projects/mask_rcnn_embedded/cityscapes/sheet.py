"""Contact sheets: pictures of the data set, plain or beside the same with outlines and names."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from cityscapesscripts.helpers.labels import id2label
from cityscapesscripts.preparation.json2instanceImg import createInstanceImage

from mask_rcnn_embedded.cityscapes.generate import render
from mask_rcnn_embedded.cityscapes.scene import StreetScene, to_annotation
from mask_rcnn_embedded.cityscapes.spec import THING_CLASSES, CityscapesSpec
from mask_rcnn_embedded.errors import DataError

# BGR; one hue a class.
_COLORS = dict(
    zip(
        THING_CLASSES,
        [
            (60, 60, 255), (60, 220, 255), (255, 160, 40), (255, 255, 60),
            (60, 220, 60), (255, 80, 255), (255, 255, 255), (40, 140, 255),
        ],
        strict=True,
    )
)  # fmt: skip


def draw_instances(scene: StreetScene, zoom: int = 2) -> np.ndarray:
    """The picture with all labels in pale colours, and outlines and names of the instances.

    Groups are named with a plus sign behind.

    Args:
        scene: the picture.
        zoom: enlargement of the result.

    Returns:
        (zoom*H, zoom*W, 3) uint8 BGR.
    """
    height, width = scene.image.shape[:2]
    annotation = to_annotation(scene.objects, width, height)
    ids = np.asarray(createInstanceImage(annotation, "ids"))
    size = (width * zoom, height * zoom)
    canvas = cv2.resize(scene.image, size, interpolation=cv2.INTER_CUBIC)
    names: list[tuple[str, tuple[int, int], tuple[int, int, int]]] = []
    for value in np.unique(ids):
        label = id2label[int(value) // 1000 if value >= 1000 else int(value)]
        mask = cv2.resize((ids == value).astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        color = _COLORS.get(label.name, tuple(reversed(label.color)))
        share = 0.35 if label.hasInstances else 0.25
        canvas[mask > 0] = (1 - share) * canvas[mask > 0] + share * np.array(color)
        if label.hasInstances:
            contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
            cv2.drawContours(canvas, contours, -1, color, 1, cv2.LINE_AA)
            x, y, _, _ = cv2.boundingRect(mask)
            text = label.name + ("" if value >= 1000 else "+")
            names.append((text, (x + 1, max(9, y - 2)), color))
    for text, spot, color in names:
        for shade, thickness in (((0, 0, 0), 2), (color, 1)):
            cv2.putText(
                canvas, text, spot, cv2.FONT_HERSHEY_SIMPLEX, 0.36, shade, thickness, cv2.LINE_AA
            )
    return canvas


def contact_sheet(
    spec: CityscapesSpec,
    split: str = "val",
    count: int = 8,
    start: int = 0,
    annotated: bool = True,
    width: int = 1240,
) -> np.ndarray:
    """A sheet of generated pictures, two beside each other; needs no files.

    Args:
        spec: which data set.
        split: which split.
        count: number of pictures.
        start: index of the first.
        annotated: each picture plain and, to its right, with its annotations; else plain alone.
        width: width of the sheet in pixels.

    Returns:
        (rows, width, 3) uint8 BGR.
    """
    gap, zoom = 4, 2
    tiles: list[np.ndarray] = []
    size = ((width - gap) // 2, round((width - gap) / 2 * spec.height / spec.width))
    for index in range(start, min(start + count, spec.num_images(split))):
        scene = render(spec, split, index)
        shown = [scene.image] + ([draw_instances(scene, zoom)] if annotated else [])
        tiles += [cv2.resize(tile, size, interpolation=cv2.INTER_AREA) for tile in shown]
    rows = -(-len(tiles) // 2)
    canvas = np.full((max(1, rows * (size[1] + gap)), width, 3), 255, np.uint8)
    for k, tile in enumerate(tiles):
        top, left = (k // 2) * (size[1] + gap), (k % 2) * (size[0] + gap)
        canvas[top : top + size[1], left : left + size[0]] = tile
    return canvas


def write_sheet(
    path: str | Path,
    spec: CityscapesSpec,
    split: str = "val",
    count: int = 8,
    start: int = 0,
    annotated: bool = True,
) -> Path:
    """Writes :func:`contact_sheet` to an image file.

    Raises:
        DataError: the file cannot be written or its suffix is none of an image.
    """
    path = Path(path)
    sheet = contact_sheet(spec, split, count, start, annotated)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        quality = [cv2.IMWRITE_JPEG_QUALITY, 85] if path.suffix.lower() in (".jpg", ".jpeg") else []
        if not cv2.imwrite(str(path), sheet, quality):
            raise DataError(f"cannot write the sheet {path}")
    except (OSError, cv2.error) as error:
        raise DataError(f"cannot write the sheet {path}: {error}; use .png or .jpg") from error
    return path
