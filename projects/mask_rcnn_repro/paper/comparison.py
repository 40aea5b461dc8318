"""One result record beside the paper's numbers, and as text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mask_rcnn_repro.paper.numbers import TIMING
from mask_rcnn_repro.paper.tables import Table
from mask_rcnn_repro.paper.words import number, task_title
from mask_rcnn_repro.records.record import Record

_METRIC_ORDER = ("AP", "AP50", "AP75", "APs", "APm", "APl")


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


def format_comparison(differences: list[Difference]) -> str:
    """Formats what :func:`compare` returns as a table."""
    rows = [
        (d.metric, number(d.ours), number(d.paper), number(d.difference, sign=True))
        for d in differences
    ]
    return Table(["metric", "ours", "paper", "difference"], rows).text("right")


def format_results(record: Record, paper: Mapping[str, Mapping[str, Any]] | None = None) -> str:
    """Formats a record as text: metrics by task, AP by class, times, and the paper's numbers.

    Args:
        record: a run.
        paper: the paper's numbers for it, if any.
    """
    parts = [_title(record)]
    if not record.metrics:
        parts.append("No metrics: the split has no annotations; its results are in json files.")
    else:
        names = _metric_names(record)
        rows = [
            [task_title(task), *(number(m.values().get(name)) for name in names)]
            for task, m in record.metrics.items()
        ]
        parts.append(Table(["", *names], rows).text("right"))
        parts.append(_class_table(record))
    if record.seconds_per_image is not None:
        seconds = record.seconds_per_image.model_dump().items()
        parts.append("Seconds per image: " + ", ".join(f"{part} {s:.4f}" for part, s in seconds))
    if paper:
        parts.append(format_comparison(compare(record, paper)))
    return "\n\n".join(part for part in parts if part)


def _title(record: Record) -> str:
    done = "?" if record.iterations_done is None else str(record.iterations_done)
    data = record.test_data.name if record.test_data else "no data"
    profile = "" if record.config.profile == "paper" else f" ({record.config.profile})"
    return (
        f"{record.config.id}{profile}, seed {record.seed}, iteration {done} of "
        f"{record.iterations_planned}, on {data}"
    )


def _metric_names(record: Record) -> list[str]:
    found = {name: None for metrics in record.metrics.values() for name in metrics.values()}
    return list({**{name: None for name in _METRIC_ORDER if name in found}, **found})


def _class_table(record: Record) -> str:
    tasks = [task for task, metrics in record.metrics.items() if metrics.per_class]
    classes = {name: None for task in tasks for name in record.metrics[task].per_class}
    if len(classes) < 2:
        return ""
    rows = [
        [name, *(number(record.metrics[task].per_class.get(name)) for task in tasks)]
        for name in classes
    ]
    headers = ["class", *(f"{task_title(task)} AP" for task in tasks)]
    if len(rows) <= 20:
        return Table(headers, rows).text("right")
    # COCO's 80 classes side by side, in three columns to be read downwards
    height = -(-len(rows) // 3)
    rows += [[""] * len(headers)] * (3 * height - len(rows))
    wide = [rows[i] + rows[height + i] + rows[2 * height + i] for i in range(height)]
    return Table(headers * 3, wide).text("right")


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
