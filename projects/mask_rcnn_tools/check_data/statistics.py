"""Counts of a data set: images, annotations, classes, sizes, instances per image."""

from __future__ import annotations

from typing import Any

import numpy as np

from mask_rcnn_tools.check_data.columns import IS_POLYGON, NO_MASK
from mask_rcnn_tools.check_data.tables import AnnotationTable

_SIZES = (("small", 0, 32**2), ("medium", 32**2, 96**2), ("large", 96**2, np.inf))


def statistics(table: AnnotationTable, split: str) -> dict[str, Any]:
    """Counts a table.

    Args:
        table: The table to count.
        split: `"train"` or `"test"`.

    Returns:
        Plain data: `split`, `source`, `images`, `annotations` (of listed images), `crowd`,
        `masks`, `polygons`, `with_keypoints`, `classes` (name to number of instances that are no
        crowd, in the order of the ids), `instances_per_image` (`mean`, `max`, `histogram`: number
        of images by text such as "0", "1", "2-4"), `box_sizes` (COCO's small, medium, large by
        the box's area) and `image_sides` (smallest, median and largest height and width).
    """
    columns = table.columns
    listed = table.image_of >= 0
    crowd = listed & (columns.crowd == 1)
    plain = listed & ~crowd
    each = np.bincount(table.image_of[plain], minlength=len(table)) if len(table) else np.zeros(1)
    with np.errstate(invalid="ignore", over="ignore"):
        area = columns.boxes[plain, 2:].prod(1)
        sizes = {name: int(((area >= a) & (area < b)).sum()) for name, a, b in _SIZES}
    return {
        "split": split,
        "source": table.source,
        "images": len(table),
        "annotations": int(listed.sum()),
        "crowd": int(crowd.sum()),
        "masks": int((listed & (columns.mask != NO_MASK)).sum()),
        "polygons": int((listed & (columns.mask == IS_POLYGON)).sum()),
        "with_keypoints": int((listed & (columns.labelled > 0)).sum()),
        "classes": per_class(table),
        "instances_per_image": {
            "mean": round(float(each.mean()), 2),
            "max": int(each.max()),
            "histogram": _histogram(each),
        },
        "box_sizes": sizes,
        "image_sides": _sides(table.sizes),
    }


def per_class(table: AnnotationTable) -> dict[str, int]:
    """Counts instances that are no crowd, by class name in the order of the ids."""
    if table.categories is None:
        return {}
    columns = table.columns
    plain = (table.image_of >= 0) & (columns.crowd != 1)
    ids, counts = np.unique(columns.category[plain], return_counts=True)
    found = dict(zip(ids.tolist(), counts.tolist(), strict=True))
    return {
        table.categories.names[index]: int(found.get(identity, 0))
        for identity, index in table.categories.id_map.items()
    }


def _histogram(each: np.ndarray) -> dict[str, int]:
    bounds = [0, 1, 2, 5, 10, 20, 50, 100]
    names = ["0", "1", "2-4", "5-9", "10-19", "20-49", "50-99", "100 and more"]
    place = np.searchsorted(bounds, each, side="right") - 1
    counts = np.bincount(place, minlength=len(names))
    return {name: int(count) for name, count in zip(names, counts, strict=True)}


def _sides(sizes: np.ndarray) -> dict[str, list[int]]:
    known = sizes[(sizes > 0).all(1)]
    if not len(known):
        return {}
    return {
        name: [int(side.min()), int(np.median(side)), int(side.max())]
        for name, side in (("height", known[:, 0]), ("width", known[:, 1]))
    }
