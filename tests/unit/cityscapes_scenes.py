"""Small Cityscapes annotations and predictions with every case that the metrics tell apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image

CLASSES = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
LABELS = dict(zip(CLASSES, (24, 25, 26, 27, 28, 31, 32, 33), strict=True))
ROAD, BUILDING, VOID, CARAVAN, CAR_GROUP = 7, 11, 3, 29, 26


def ellipse(size: tuple[int, int], center: tuple[float, float], radii: tuple[float, float]):
    """A filled ellipse, bool (H, W); centre and radii as (y, x), pixels."""
    y, x = np.mgrid[: size[0], : size[1]]
    return ((y - center[0]) / radii[0]) ** 2 + ((x - center[1]) / radii[1]) ** 2 <= 1


def scene(seed: int, size: tuple[int, int] = (96, 160), count: int = 14) -> np.ndarray:
    """An instanceIds image (H, W), uint16: objects that hide each other, groups and void."""
    generator = np.random.RandomState(seed)
    ids = np.full(size, ROAD, np.uint16)
    ids[: size[0] // 3] = BUILDING
    ids[-8:] = VOID
    for number in range(count):
        center = generator.rand(2) * size
        radii = 2 + generator.rand(2) ** 2 * 20  # some have less than 100 pixels
        label = generator.choice([24, 24, 25, 26, 26, 26, 27, 28, 32, 33, CARAVAN, VOID])
        alone = generator.rand() < 0.85 and label != VOID
        ids[ellipse(size, center, radii)] = label * 1000 + number if alone else label
    return ids


def one_of_each(size: tuple[int, int] = (96, 160)) -> np.ndarray:
    """An instanceIds image (H, W), uint16, with a 15 x 15 object of each class on the road."""
    ids = np.full(size, ROAD, np.uint16)
    for index, label in enumerate(LABELS.values()):
        ids[5:20, 5 + 18 * index : 20 + 18 * index] = label * 1000
    return ids


def truth(ids: np.ndarray) -> list[tuple[np.ndarray, str, float]]:
    """The evaluated instances of an image as predictions: mask, class, score 1."""
    names = {label: name for name, label in LABELS.items()}
    values = [v for v in np.unique(ids).tolist() if v >= 1000 and v // 1000 in names]
    return [(ids == v, names[v // 1000], 1.0) for v in values]


def as_instances(found, size: tuple[int, int]) -> Instances:
    """Post-processed predictions of (mask, class, score); boxes are the masks'."""
    instances = Instances(size)
    boxes = []
    for mask, _, _ in found:
        y, x = np.nonzero(mask)
        # a mask without pixels still has a box: that is how models predict them
        boxes.append([x.min(), y.min(), x.max() + 1, y.max() + 1] if len(x) else [1, 1, 3, 3])
    masks = np.array([mask for mask, _, _ in found], bool).reshape(-1, *size)
    instances.pred_boxes = Boxes(torch.tensor(np.array(boxes, np.float32).reshape(-1, 4)))
    instances.pred_masks = torch.from_numpy(masks)
    instances.pred_classes = torch.tensor([CLASSES.index(c) for _, c, _ in found]).long()
    instances.scores = torch.tensor([s for _, _, s in found], dtype=torch.float32)
    return instances


def stem(number: int) -> str:
    """Image ids; two cities, so that names sort otherwise than they were made."""
    return f"{'zurich' if number % 2 == 0 else 'aachen'}_{number:06d}_000019"


def write_annotation(root: Path, number: int, ids: np.ndarray) -> dict:
    """Writes `gtFine/val/CITY/*_gtFine_instanceIds.png`; returns the data set's dict."""
    name = stem(number)
    file = root / "gtFine" / "val" / name.split("_")[0] / f"{name}_gtFine_instanceIds.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(ids.astype(np.uint16)).save(file)
    height, width = ids.shape
    return {
        "file_name": f"{name}_leftImg8bit.png",
        "image_id": name,
        "height": height,
        "width": width,
        "instance_ids_file": str(file),
    }
