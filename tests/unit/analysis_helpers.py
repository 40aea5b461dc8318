"""Scenes for the analyses: rectangles and ellipses as objects, with chosen or random mistakes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as mask_util

from mask_rcnn_repro.data import register_custom
from mask_rcnn_tools.analyze.evaluation_data import EvaluationData, load_evaluation_data

SIDE = 200
CLASSES = {3: "cat", 7: "dog", 8: "cow"}


def ellipse(box: tuple[float, ...] | list[float], side: int = SIDE) -> dict[str, Any]:
    """RLE of the ellipse in an XYWH box."""
    x, y, w, h = box
    rows, columns = np.mgrid[:side, :side] + 0.5
    inside = ((columns - x - w / 2) / (w / 2)) ** 2 + ((rows - y - h / 2) / (h / 2)) ** 2 <= 1
    rle = mask_util.encode(np.asfortranarray(inside.astype(np.uint8)))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def truth(image: int, category: int, box: list[float], crowd: bool = False) -> dict[str, Any]:
    """An annotation, its mask the ellipse in the box."""
    mask = ellipse(box)
    return {
        "image_id": image,
        "category_id": category,
        "bbox": box,
        "iscrowd": int(crowd),
        "segmentation": mask,
        "area": float(mask_util.area(mask)),
    }


def found(image: int, category: int, score: float, box: list[float]) -> dict[str, Any]:
    """A detection, its mask the ellipse in the box."""
    return {
        "image_id": image,
        "category_id": category,
        "score": score,
        "bbox": box,
        "segmentation": ellipse(box),
    }


def write_scene(
    folder: Path, annotations: list[dict[str, Any]], detections: list[dict[str, Any]], images: int
) -> tuple[str, Path, Path]:
    """Writes annotations and results and registers the data set; its name and the two files."""
    content = {
        "images": [
            {"id": i, "width": SIDE, "height": SIDE, "file_name": f"{i}.png"}
            for i in range(1, images + 1)
        ],
        "categories": [{"id": i, "name": name} for i, name in CLASSES.items()],
        "annotations": [{**a, "id": n} for n, a in enumerate(annotations, start=1)],
    }
    gt, results = folder / "gt.json", folder / "results.json"
    gt.write_text(json.dumps(content))
    results.write_text(json.dumps(detections))
    name = f"scene_{hashlib.md5(str(folder).encode()).hexdigest()}"
    register_custom(name, str(gt), str(folder))
    return name, gt, results


def scene(
    folder: Path,
    annotations: list[dict[str, Any]],
    detections: list[dict[str, Any]],
    images: int = 1,
) -> EvaluationData:
    """The data of a scene."""
    name, _, results = write_scene(folder, annotations, detections, images)
    return load_evaluation_data(name, [results])


def random_scene(
    seed: int, crowds: bool, images: int = 20
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Objects, and detections of them with every kind of mistake; scores often tie."""
    rng = np.random.default_rng(seed)
    ids = list(CLASSES)
    annotations, detections = [], []

    def box() -> np.ndarray:
        return np.concatenate([rng.uniform(0, 120, 2), rng.uniform(15, 75, 2)])

    for image in range(1, images + 1):
        boxes = [box() for _ in range(rng.integers(0, 6))]
        for own in boxes:
            category = int(rng.choice(ids))
            crowd = bool(crowds and rng.random() < 0.15)
            annotations.append(truth(image, category, own.tolist(), crowd))
            for _ in range(rng.integers(0, 4)):
                moved = own + rng.normal(0, 6, 4)
                moved[2:] = np.maximum(moved[2:], 5)
                kind = category if rng.random() < 0.7 else int(rng.choice(ids))
                score = round(float(rng.random()), 2)
                detections.append(found(image, kind, score, moved.tolist()))
        for _ in range(rng.integers(0, 3)):
            score = round(float(rng.random()), 2)
            detections.append(found(image, int(rng.choice(ids)), score, box().tolist()))
    return annotations, detections
