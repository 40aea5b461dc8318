"""Counts and sizes of a generated data set, as a Markdown table for the docs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from cityscapesscripts.helpers.labels import name2label

from mask_rcnn_embedded.cityscapes.spec import THING_CLASSES
from mask_rcnn_embedded.errors import DataError
from mask_rcnn_embedded.stats import markdown_table

COUNTED = 100
"""The official evaluation ignores instances with fewer pixels."""


def measure(root: str | Path, split: str) -> dict[str, Any]:
    """Counts of one split with annotations.

    Args:
        root: directory that holds ``gtFine``.
        split: ``train`` or ``val``.

    Returns:
        ``images``, ``groups`` (pictures with a group of any class) and ``classes``: name ->
        instances, instances of at least :data:`COUNTED` pixels, pictures with the class, median
        pixels (0 without instances).

    Raises:
        DataError: there are no instance images, or one cannot be read.
    """
    paths = sorted(Path(root).glob(f"gtFine/{split}/*/*_gtFine_instanceIds.png"))
    if not paths:
        raise DataError(f"no gtFine/{split}/CITY/*_gtFine_instanceIds.png below {root}")
    ids = {name: name2label[name].id for name in THING_CLASSES}
    areas: dict[str, list[int]] = {name: [] for name in THING_CLASSES}
    pictures = dict.fromkeys(THING_CLASSES, 0)
    groups = 0
    for path in paths:
        image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if image is None:
            raise DataError(f"{path} is not a readable image. Generate the data set again")
        values, counts = np.unique(np.asarray(image), return_counts=True)
        groups += bool(np.isin(values, list(ids.values())).any())
        for name, label in ids.items():
            chosen = counts[values // 1000 == label]
            areas[name] += chosen.tolist()
            pictures[name] += len(chosen) > 0
    classes = {
        name: (
            len(found),
            sum(a >= COUNTED for a in found),
            pictures[name],
            float(np.median(found)) if found else 0.0,
        )
        for name, found in areas.items()
    }
    return {"images": len(paths), "groups": groups, "classes": classes}


def format_stats(root: str | Path) -> str:
    """A Markdown table of both splits with annotations."""
    train, val = measure(root, "train"), measure(root, "val")
    header = ["", "train", ">= 100 pixels", "val", ">= 100 pixels", "median pixels (train)"]
    rows: list[tuple[object, ...]] = [
        (label, train[key], "", val[key], "", "")
        for label, key in (("pictures", "images"), ("pictures with a group", "groups"))
    ]
    for name, (count, large, _, median) in train["classes"].items():
        rows.append((name, count, large, *val["classes"][name][:2], f"{median:.0f}"))
    return markdown_table(header, rows)
