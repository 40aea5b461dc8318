"""Small stand-ins for the data sets of crops: four classes that differ in color."""

import cv2
import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog


def register_crops(folder, name, classes, count=48, seed=0):
    """Writes and registers `count` images of 20 x 24 px, class after class."""
    rng = np.random.default_rng(seed)
    colors = np.random.default_rng(0).uniform(40, 215, (classes, 3))
    folder.mkdir(parents=True)
    dicts = []
    for i in range(count):
        k = i % classes
        image = np.clip(colors[k] + rng.normal(0, 12, (24, 20, 3)), 0, 255).astype(np.uint8)
        file = folder / f"{i}.png"
        cv2.imwrite(str(file), image)
        size = {"height": 24, "width": 20}
        dicts.append({"file_name": str(file), "image_id": i, "category_id": k, **size})
    if name in DatasetCatalog:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name)
    DatasetCatalog.register(name, lambda: dicts)
    MetadataCatalog.get(name).thing_classes = [f"class {k}" for k in range(classes)]
