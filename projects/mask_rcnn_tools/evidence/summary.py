"""One result record as text."""

from __future__ import annotations

from mask_rcnn_repro.records.record import Record
from mask_rcnn_tools.common.text_tables import Table
from mask_rcnn_tools.evidence.titles import best_title, number, task_title

_METRIC_ORDER = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def print_results(record: Record) -> None:
    """Prints a record as text."""
    print(format_results(record), flush=True)


def format_results(record: Record) -> str:
    """Formats a record as text: metrics by task, AP by class, times."""
    parts = [_title(record)]
    if record.best is not None:
        parts.append(f"Best checkpoint (model_best.pth): {best_title(record.best)}")
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
    return "\n\n".join(part for part in parts if part)


def _title(record: Record) -> str:
    done = "?" if record.iterations_done is None else str(record.iterations_done)
    data = record.test_data.name if record.test_data else "no data"
    profile = "" if record.config.profile == "paper" else f" ({record.config.profile})"
    early = " (stopped early)" if record.stopped_early else ""
    return (
        f"{record.config.id}{profile}, seed {record.seed}, iteration {done} of "
        f"{record.iterations_planned}{early}, on {data}"
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
