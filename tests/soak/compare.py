"""What must be equal in the end: weights, optimizer, metrics, detections."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from mask_rcnn_repro.engine.checkpoint.safe_load import safe_torch_load
from soak.process import Training


def differences(run: Training, whole: Training) -> list[str]:
    """Compares two finished runs.

    Returns:
        What differs, in words; empty if nothing does.
    """
    found = []
    one, two = (safe_torch_load(t.folder / "model_final.pth") for t in (run, whole))
    differing, tensors = _compare(one, two)
    if differing or not tensors:
        found.append(f"{len(differing)} of {tensors} tensors and values of model_final.pth")
    records = [json.loads((t.folder / "record.json").read_text()) for t in (run, whole)]
    if records[0]["metrics"] != records[1]["metrics"]:
        found.append("the metrics of the record")
    if _evaluations(run) != _evaluations(whole):
        found.append("the evaluations in metrics.json")
    if _detections(run.folder) != _detections(whole.folder) or not _detections(whole.folder):
        found.append("the detections")
    return found


def _compare(one: Any, two: Any, where: str = "") -> tuple[list[str], int]:
    """Names of what differs, and how many values were compared."""
    if isinstance(one, dict) and isinstance(two, dict) and one.keys() == two.keys():
        parts = [_compare(one[key], two[key], f"{where}.{key}") for key in one]
    elif isinstance(one, list | tuple) and isinstance(two, list | tuple) and len(one) == len(two):
        parts = [_compare(a, b, f"{where}[]") for a, b in zip(one, two, strict=True)]
    elif isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor):
        return ([] if torch.equal(one, two) else [where]), 1
    else:
        return ([] if one == two else [where]), 1
    return [name for names, _ in parts for name in names], sum(count for _, count in parts)


def _evaluations(run: Training) -> dict[float, dict[str, float]]:
    """Metrics by iteration. Losses are logged as medians since the last start, which differ."""
    tasks = ("bbox/", "segm/", "keypoints/", "proposals/")
    return {
        row["iteration"]: {k: v for k, v in row.items() if k.startswith(tasks)}
        for row in run.metrics()
        if any(key.startswith(tasks) for key in row)
    }


def _detections(folder: Path) -> dict[str, str]:
    files = sorted(folder.glob("inference/*/*_results.json"))
    return {f.name: f.read_text() for f in files}
