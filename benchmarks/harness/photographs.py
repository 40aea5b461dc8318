"""Photographs of the COCO sample, as a loader gives them to a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.data.transforms import ResizeShortestEdge

SAMPLE = Path(__file__).resolve().parents[3] / "shared" / "data" / "coco" / "val2017"


def photographs(count: int, edge: int) -> tuple[list[dict[str, Any]], str]:
    """Images as a loader gives them, BGR, of different shapes as far as there are, and a text."""
    pictures = [cv2.imread(str(file)) for file in sorted(SAMPLE.glob("*.jpg"))]
    seen: dict[tuple[int, ...], int] = {}
    order = []  # first pictures of new shapes, then others
    for index, picture in enumerate(pictures):
        seen[picture.shape] = seen.get(picture.shape, 0) + 1
        order.append((seen[picture.shape], index))
    pictures = [pictures[index] for _, index in sorted(order)[:count]]
    what = (
        f"{len(pictures)} photographs of COCO val2017 of {len({p.shape for p in pictures})} shapes"
    )
    if not pictures:
        what = f"{count} pictures of noise (no photographs at ../shared/data)"
        generator = np.random.default_rng(0)
        small = generator.integers(0, 256, (count, 30, 40, 3), dtype=np.uint8)
        pictures = [cv2.resize(picture, (640, 480)) for picture in small]
    resize = ResizeShortestEdge(edge, max_size=edge * 5 // 3)
    inputs = []
    for index, picture in enumerate(pictures):
        resized = resize.get_transform(picture).apply_image(picture)
        image = torch.from_numpy(resized.transpose(2, 0, 1).copy())
        height, width = picture.shape[:2]
        inputs.append({"image": image, "height": height, "width": width, "image_id": index})
    return inputs, what
