"""Titles of tables, tasks and metrics, and numbers as text, the same in all outputs."""

from __future__ import annotations

from mask_rcnn_repro.paper.numbers import load_tables
from mask_rcnn_repro.records.record import BestInfo

FOLDER_TITLES = {
    "enhanced_r50": "Tables 8 and 9 on ResNet-50-FPN: their components on a network that one "
    "machine can train",
    "pretrain": "Pre-training stages: weights on embedded data in place of ImageNet's",
    "rpn": "RPN stages: proposals for the rows that are trained stage by stage",
    "quickstart": "Quickstart: embedded data, no row of the paper",
    "model_zoo": "Model zoo: Detectron2's published models, for `--eval-only`",
}
"""Titles of folders of configs that are no rows of the paper, in the order of the pages."""

_TASKS = {"bbox": "box", "segm": "mask", "keypoints": "keypoint", "cityscapes": "mask"}

_METRICS = {
    "timing/ms": "ms per image",
    "segm": "mask AP75 - AP50",  # claims about a difference of differences
    "AP": "mask - box AP",
}


def number(value: float | None, sign: bool = False) -> str:
    """One decimal; a dash for None."""
    if value is None:
        return "-"
    return f"{value:+.1f}" if sign else f"{value:.1f}"


def task_title(task: str) -> str:
    """A task in words: `segm` is mask, `bbox_person` box (person)."""
    kind, _, of = task.partition("_")
    return f"{_TASKS.get(kind, kind)}{f' ({of})' if of else ''}"


def metric_title(metric: str) -> str:
    """A metric in words: `segm/AP75` is mask AP75."""
    if metric in _METRICS:
        return _METRICS[metric]
    task, _, name = metric.partition("/")
    return f"{task_title(task)} {name}" if name else task


def best_title(best: BestInfo) -> str:
    """A best checkpoint in words: mask AP 34.1 after 400 iterations."""
    return f"{metric_title(best.metric)} {number(best.value)} after {best.iteration} iterations"


def table_title(table: str) -> str:
    """Heading of a table, with the split of the paper's numbers; or of a folder of configs."""
    content = load_tables().get(table)
    if content is None:
        return FOLDER_TITLES.get(table, table)
    facts = [content[key] for key in ("split", "backbone") if key in content]
    label = f"Table {table}: " if table[0].isdigit() else ""
    return f"{label}{content['title']}" + (f" ({'; '.join(facts)})" if facts else "")


def table_label(table: str) -> str:
    """A table in a few letters: `2c`, or the section of numbers in the text."""
    if table.startswith("text-"):
        return f"section {table.split('-')[1]}"
    return "section 4.4" if table == "timing" else table
