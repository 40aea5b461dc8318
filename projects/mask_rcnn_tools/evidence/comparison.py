"""One result record beside the paper's numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mask_rcnn_repro.paper.numbers import TIMING
from mask_rcnn_repro.records.record import Record


@dataclass(frozen=True)
class Difference:
    """A metric of a run beside the paper's.

    Attributes:
        metric: task and name, such as "segm/AP"; of one class "segm/AP (person)".
        ours: percent, None if the run has no such number.
        paper: percent.
        difference: ours minus the paper's, None if ours is None.
    """

    metric: str
    ours: float | None
    paper: float
    difference: float | None


def compare(record: Record, paper: Mapping[str, Mapping[str, Any]]) -> list[Difference]:
    """Sets a record's metrics beside the paper's.

    Args:
        record: a run.
        paper: as :func:`mask_rcnn_repro.paper.paper_numbers` returns it. A task such as
            "bbox_person" stands for the AP of class "person" in task "bbox"; "cityscapes_val" for
            the masks of a run on a split of that name.

    Returns:
        One entry per number that the paper prints, in its order.
    """
    result = []
    for task, values in paper.items():
        for name, value in values.items():
            if not isinstance(value, Mapping):
                result.append(_difference(f"{task}/{name}", _ours(record, task, name), value))
                continue
            for of, number_of_class in value.items():
                ours = _class_ap(record, _task(record, task), of)
                result.append(_difference(f"{task}/AP ({of})", ours, float(number_of_class)))
    return result


def number_of(record: Record, metric: str) -> float | None:
    """A record's number for a metric; None where it has none.

    Args:
        record: a run.
        metric: such as "segm/AP" or, of a class, "segm/AP (person)", in percent; "timing/ms" is
            milliseconds of inference per image.
    """
    if metric == TIMING:
        seconds = record.seconds_per_image
        return None if seconds is None else 1000 * seconds.inference
    task, _, name = metric.partition("/")
    return _ours(record, task, name)


def _task(record: Record, task: str) -> str:
    """The record's task that a task of the paper stands for; itself where there is none."""
    if not task.startswith("cityscapes_"):
        return task
    split = task.removeprefix("cityscapes_")
    on_it = record.test_data is not None and record.test_data.name.endswith(f"cityscapes_{split}")
    return "segm" if on_it else task


def _ours(record: Record, task: str, name: str) -> float | None:
    task = _task(record, task)
    if task.endswith("_person") and name == "AP":
        return _class_ap(record, task.removesuffix("_person"), "person")
    if name.startswith("AP ("):
        return _class_ap(record, task, name[len("AP (") : -1])
    metrics = record.metrics.get(task)
    return metrics.values().get(name) if metrics else None


def _class_ap(record: Record, task: str, name: str) -> float | None:
    metrics = record.metrics.get(task)
    return metrics.per_class.get(name) if metrics else None


def _difference(metric: str, ours: float | None, paper: float) -> Difference:
    return Difference(metric, ours, paper, None if ours is None else ours - paper)
