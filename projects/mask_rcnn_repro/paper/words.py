"""Numbers and names in words, the same wherever tables show them."""

from __future__ import annotations

_TASKS = {"bbox": "box", "segm": "mask", "keypoints": "keypoint", "cityscapes": "mask"}


def number(value: float | None, sign: bool = False) -> str:
    """One decimal; a dash for None."""
    if value is None:
        return "-"
    return f"{value:+.1f}" if sign else f"{value:.1f}"


def task_title(task: str) -> str:
    """A task in words: `segm` is mask, `bbox_person` box (person)."""
    kind, _, of = task.partition("_")
    return f"{_TASKS.get(kind, kind)}{f' ({of})' if of else ''}"
