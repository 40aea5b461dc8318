"""Contact sheets: pictures, plain or beside the same with labels, outlines and names."""

from __future__ import annotations

import cv2
import numpy as np
from cityscapesscripts.helpers.labels import id2label
from cityscapesscripts.preparation.json2instanceImg import createInstanceImage

from mask_rcnn_embedded.cityscapes.scene import StreetScene, render, to_annotation
from mask_rcnn_embedded.cityscapes.spec import CityscapesSpec
from mask_rcnn_embedded.sheet import ZOOM, put_name

# BGR; one hue per class.
_COLORS = {
    "person": (60, 60, 255), "rider": (60, 220, 255), "car": (255, 160, 40),
    "truck": (255, 255, 60), "bus": (60, 220, 60), "train": (255, 80, 255),
    "motorcycle": (255, 255, 255), "bicycle": (40, 140, 255),
}  # fmt: skip


def draw_instances(scene: StreetScene) -> np.ndarray:
    """The picture with all labels in pale colours, and outlines and names of the instances.

    Names of groups end in a plus sign.

    Args:
        scene: the picture.

    Returns:
        (ZOOM*H, ZOOM*W, 3) uint8 BGR.
    """
    height, width = scene.image.shape[:2]
    annotation = to_annotation(scene.objects, width, height)
    ids = np.asarray(createInstanceImage(annotation, "ids"))
    size = (width * ZOOM, height * ZOOM)
    canvas = cv2.resize(scene.image, size, interpolation=cv2.INTER_CUBIC)
    names: list[tuple[str, int, int, tuple[int, ...]]] = []
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
            names.append((text, x, y, color))
    for name in names:
        put_name(canvas, *name)
    return canvas


def tiles(spec: CityscapesSpec, split: str, index: int, annotated: bool) -> list[np.ndarray]:
    """One picture and, if ``annotated``, the same with its labels."""
    scene = render(spec, split, index)
    return [scene.image] + ([draw_instances(scene)] if annotated else [])
