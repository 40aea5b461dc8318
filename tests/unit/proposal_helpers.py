"""Stored proposals written with numpy alone, and random ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

FINGERPRINT = "sha256:" + "0123456789abcdef" * 4

Proposals = dict[Any, tuple[np.ndarray, np.ndarray]]


def random_proposals(
    image_ids: Sequence[Any], width: int = 40, height: int = 30, most: int = 6
) -> Proposals:
    """Some boxes an image, none in every third, with scores that descend and have ties."""
    result = {}
    for number, image_id in enumerate(image_ids):
        generator = np.random.RandomState(number)
        count = 0 if number % 3 == 2 else generator.randint(1, most + 1)
        corners = generator.uniform(0, 1, (count, 2, 2)) * [width, height]
        boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
        scores = np.sort(generator.randint(-4, 5, count))[::-1] / 2
        result[image_id] = (boxes.astype(np.float32), scores.astype(np.float32))
    return result


def write_folder(folder: Path, proposals: Proposals, **info: Any) -> Path:
    """Writes the format straight from its description, without this project's writer."""
    folder.mkdir(parents=True)
    counts = [len(scores) for _, scores in proposals.values()]
    np.save(folder / "offsets.npy", np.cumsum([0, *counts], dtype=np.int64))
    for name, column, empty in (("boxes", 0, (0, 4)), ("scores", 1, (0,))):
        arrays = [p[column] for p in proposals.values()]
        np.save(folder / f"{name}.npy", np.concatenate([np.zeros(empty, np.float32), *arrays]))
    (folder / "image_ids.json").write_text(json.dumps(list(proposals)))
    facts: Mapping[str, Any] = {
        "format_version": 1,
        "dataset": "some_data",
        "fingerprint": FINGERPRINT,
        "num_images": len(counts),
        "num_boxes": sum(counts),
        "topk": max([1, *counts]),
        **info,
    }
    (folder / "info.json").write_text(json.dumps(facts))
    return folder
