"""Counts and size statistics of a generated data set, as a Markdown table for the docs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mask_rcnn_embedded.errors import DataError
from mask_rcnn_embedded.stats import markdown_table

SMALL, LARGE = 32.0**2, 96.0**2
"""COCO's limits of area between small, medium and large, in pixels."""


def _load(root: Path, name: str) -> dict[str, Any]:
    path = root / "annotations" / name
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the annotation file {path}: {error}") from error


def measure(root: str | Path, split: str = "train") -> dict[str, Any]:
    """Counts of one split with annotations.

    Args:
        root: directory of the data set.
        split: ``train`` or ``val``.

    Returns:
        ``images``, ``empty_images``, ``crowd_images``, ``instances``, ``per_image``,
        ``small``/``medium``/``large`` (shares), ``multi_part`` (share with several polygons),
        ``classes`` (name -> instances, small, medium, large) and ``keypoints`` (flags 0, 1, 2
        of the persons with any labelled keypoint).

    Raises:
        DataError: the annotation files are missing or unreadable.
    """
    root = Path(root)
    instances = _load(root, f"instances_{split}.json")
    persons = _load(root, f"person_keypoints_{split}.json")
    single = [a for a in instances["annotations"] if not a["iscrowd"]]
    crowd = [a for a in instances["annotations"] if a["iscrowd"]]
    areas = np.array([a["area"] for a in single])
    size = np.digitize(areas, [SMALL, LARGE])
    classes = {}
    for category in instances["categories"]:
        chosen = np.array([a["category_id"] == category["id"] for a in single], dtype=bool)
        counts = np.bincount(size[chosen], minlength=3) if len(single) else np.zeros(3, int)
        classes[category["name"]] = (int(chosen.sum()), *(int(c) for c in counts))
    flags = [a["keypoints"][2::3] for a in persons["annotations"] if a["num_keypoints"]]
    shares = np.bincount(size, minlength=3) / max(len(single), 1)
    return {
        "images": len(instances["images"]),
        "empty_images": len(instances["images"])
        - len({a["image_id"] for a in instances["annotations"]}),
        "crowd_images": len({a["image_id"] for a in crowd}),
        "instances": len(single),
        "per_image": len(single) / max(len(instances["images"]), 1),
        "small": float(shares[0]),
        "medium": float(shares[1]),
        "large": float(shares[2]),
        "multi_part": sum(len(a["segmentation"]) > 1 for a in single) / max(len(single), 1),
        "classes": classes,
        "labelled_persons": len(flags),
        "keypoints": [int(c) for c in np.bincount(np.array(flags, int).reshape(-1), minlength=3)],
    }


def format_stats(root: str | Path) -> str:
    """Markdown tables of both splits with annotations."""
    train, val = measure(root, "train"), measure(root, "val")
    rows: list[tuple[str, Callable[[dict[str, Any]], object]]] = [
        ("images", lambda m: m["images"]),
        ("images without any instance", lambda m: m["empty_images"]),
        ("images with a crowd region", lambda m: m["crowd_images"]),
        ("instances (crowds aside)", lambda m: m["instances"]),
        ("instances an image", lambda m: f"{m['per_image']:.2f}"),
        ("small, area < 32²", lambda m: f"{100 * m['small']:.1f} %"),
        ("medium", lambda m: f"{100 * m['medium']:.1f} %"),
        ("large, area >= 96²", lambda m: f"{100 * m['large']:.1f} %"),
        ("masks of several polygons", lambda m: f"{100 * m['multi_part']:.1f} %"),
        ("persons with labelled keypoints", lambda m: m["labelled_persons"]),
        ("keypoints visible (2) / hidden (1)", lambda m: "{2} / {1}".format(*m["keypoints"])),
    ]
    classes = [
        (name, total, *(f"{100 * size / max(total, 1):.0f} %" for size in sizes))
        for name, (total, *sizes) in train["classes"].items()
    ]
    return "\n\n".join(
        (
            markdown_table(["", "train", "val"], [(n, f(train), f(val)) for n, f in rows]),
            markdown_table(["class", "train instances", "small", "medium", "large"], classes),
        )
    )
