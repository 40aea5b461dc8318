"""The plots of a table: learning, precision over recall, AP by class.

Each function returns the text of an SVG, or None if there is nothing to draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np

from mask_rcnn_repro.records.curves import Curves, Point
from mask_rcnn_tools.common import plot_style as style
from mask_rcnn_tools.evidence.learning import mean_curve
from mask_rcnn_tools.evidence.outcomes import RowOutcome, TableOutcome
from mask_rcnn_tools.evidence.titles import metric_title, task_title

_WIDTH = 5.2  # inches


def draw_learning(table: TableOutcome) -> str | None:
    """Draws training loss and AP over iterations. Thin lines are single seeds."""
    metric = _main_evaluation([row for row in table.rows if row.curves])
    rows = [
        (index, row)
        for index, row in enumerate(table.rows)
        # rows on another task have losses that do not compare
        if (metric is None or any(metric in c.evaluations for c in row.curves.values()))
        and any(c.training for c in row.curves.values())
    ]
    if not rows:
        return None
    # evaluated at the end alone, runs would lie above each other: side by side then
    once = all(
        len(c.evaluations.get(metric or "", ())) < 2 for _, r in rows for c in r.curves.values()
    )
    with style.plot(_WIDTH, _height(len(rows)), f"learning {table.table}") as (figure, result):
        axes = figure.subplots(1, 2, width_ratios=(3, 2))
        top = 0.0
        for index, row in rows:
            runs = [c.training.get("total_loss", []) for c in row.curves.values()]
            mean = mean_curve([r for r in runs if r])
            _line(axes[0], mean, index, row.row.name)
            top = max([top, *(value for _, value in mean[max(1, len(mean) // 20) :])])
            if len(runs) > 1:
                for run in runs:
                    _line(axes[0], run, index, None)
            evaluations = [c.evaluations.get(metric or "", []) for c in row.curves.values()]
            _evaluations(axes[1], evaluations, index, at=index if once else None)
        axes[0].set_ylim(0, 1.08 * top or None)
        axes[0].set_ylabel("training loss, sum of its parts")
        axes[1].set_ylabel(f"{metric_title(metric)}, %" if metric else "not measured")
        bottom, highest = axes[1].get_ylim()
        axes[1].set_ylim(max(0.0, min(bottom, 0.75 * highest)), highest + 0.05 * (highest or 1))
        right = max(
            point[0]
            for _, row in rows
            for c in row.curves.values()
            for curve in c.training.values()
            for point in curve
        )
        for each in axes[: 1 if once else 2]:
            each.set_xlabel("iterations")
            each.set_xlim(0, 1.03 * right)
            each.locator_params(axis="x", nbins=4)
        if once:
            axes[1].set_xlabel("at the end")
            axes[1].set_xticks([])
            axes[1].set_xlim(-0.7, len(table.rows) - 0.3)
        for each in axes:
            each.grid()
        style.legend_above(figure, axes[0])
    return result[0]


def draw_precision_recall(table: TableOutcome, task: str) -> str | None:
    """Draws precision over recall at IoU 0.50 and 0.50 to 0.95. Bands span the seeds."""
    rows = [
        (index, row, curves)
        for index, row in enumerate(table.rows)
        if task in row.measured_tasks
        and (curves := [c.precision_recall[task] for c in _with(row, task)])
    ]
    if not rows:
        return None
    recalls = np.linspace(0, 1, 101)
    with style.plot(_WIDTH, _height(len(rows)), f"precision {table.table} {task}") as (
        figure,
        result,
    ):
        axes = figure.subplots(1, 2, sharey=True)
        for index, row, curves in rows:
            for each, found in (
                (axes[0], [c.at_50 for c in curves if c.at_50 is not None]),
                (axes[1], [c.mean for c in curves if c.mean is not None]),
            ):
                if not found:
                    continue
                values, color = np.array(found), style.series_color(index)
                line = style.series_line(index)
                each.plot(recalls, values.mean(0), color=color, linestyle=line, label=row.row.name)
                if len(found) > 1:
                    low, high = values.min(0), values.max(0)
                    each.fill_between(recalls, low, high, color=color, alpha=0.18, linewidth=0)
        axes[0].set_title("IoU 0.50")
        axes[1].set_title("mean over IoU 0.50 to 0.95")
        axes[0].set_ylabel(f"precision ({task_title(task)})")
        for each in axes:
            each.set_xlabel("recall")
            each.set_xlim(0, 1)
            each.set_ylim(0, 1.02)
            each.grid()
        style.legend_above(figure, axes[0])
    return result[0]


def draw_classes(table: TableOutcome, task: str, most: int = 20) -> str | None:
    """Draws AP by class. Each row has a mark for the mean, on a line that spans the seeds.

    Args:
        table: The table.
        task: Task of the AP.
        most: Largest number of classes. Those whose AP differs most between rows are shown.
    """
    rows = [(i, row) for i, row in enumerate(table.rows) if row.runs and task in row.measured_tasks]
    values = {
        (index, name): known for index, row in rows for name, known in _by_class(row, task).items()
    }
    names = list(dict.fromkeys(name for _, name in values))
    if len(names) < 2:
        return None
    names = _most_different(names, values, most)
    together = 0.62 / max(len(rows), 1)
    height = 0.21 * len(names) * max(len(rows), 2) ** 0.75 + 1.0
    with style.plot(_WIDTH, height, f"classes {table.table} {task}") as (figure, result):
        axes = figure.add_subplot()
        for number, (index, row) in enumerate(rows):
            offset = (number - (len(rows) - 1) / 2) * together
            places = [k + offset for k, name in enumerate(names) if (index, name) in values]
            found = [values[index, name] for name in names if (index, name) in values]
            color = style.series_color(index)
            if not found:
                continue
            axes.hlines(places, [min(f) for f in found], [max(f) for f in found], color=color)
            axes.plot(
                [fmean(f) for f in found],
                places,
                style.series_marker(index),
                color=color,
                markersize=5,
                label=row.row.name,
            )
        for k in range(0, len(names), 2):
            axes.axhspan(k - 0.5, k + 0.5, color=style.GRID, alpha=0.35, linewidth=0)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.set_xlim(left=-0.015 * axes.get_xlim()[1])
        axes.grid(axis="x")
        axes.set_xlabel(f"{task_title(task)} AP, %")
        style.legend_above(figure, axes)
    return result[0]


def _with(row: RowOutcome, task: str) -> list[Curves]:
    return [curves for curves in row.curves.values() if task in curves.precision_recall]


def _height(rows: int) -> float:
    """Returns the height in inches of a plot whose legend has this many rows, three per line."""
    return 2.8 + 0.22 * ((rows - 1) // 3)


def _main_evaluation(rows: Sequence[RowOutcome]) -> str | None:
    """Returns the metric that is drawn: the first AP of the table's tasks that was evaluated."""
    for row in rows:
        measured = {key for c in row.curves.values() for key in c.evaluations}
        for kind in row.measured_tasks:
            for key in (f"{kind}/AP", f"{kind}/AR@1000"):
                if key in measured:
                    return key
    return None


def _line(axes: Any, points: Sequence[Point], index: int, label: str | None) -> None:
    single = label is None
    axes.plot(
        [x for x, _ in points],
        [y for _, y in points],
        color=style.series_color(index),
        linestyle="-" if single else style.series_line(index),
        label=label,
        linewidth=0.7 if single else 1.8,
        alpha=0.35 if single else 1.0,
    )


def _evaluations(axes: Any, runs: Sequence[Sequence[Point]], index: int, at: int | None) -> None:
    color, marker = style.series_color(index), style.series_marker(index)
    for run in runs:
        axes.plot(
            [x if at is None else at for x, _ in run],
            [y for _, y in run],
            marker,
            color=color,
            linestyle="-" if len(run) > 1 else "none",
            linewidth=1,
            markersize=5,
            alpha=0.8,
        )


def _by_class(row: RowOutcome, task: str) -> dict[str, list[float]]:
    """Maps each class to its AP in the runs that have one."""
    found: dict[str, list[float]] = {}
    for record in row.runs.values():
        for name, value in record.metrics[task].per_class.items() if task in record.metrics else ():
            if value is not None:
                found.setdefault(name, []).append(value)
    return found


def _most_different(names: list[str], values: Any, most: int) -> list[str]:
    if len(names) <= most:
        return names

    def spread(name: str) -> float:
        means = [fmean(found) for (_, other), found in values.items() if other == name]
        return max(means) - min(means)

    chosen = set(sorted(names, key=spread, reverse=True)[:most])
    return [name for name in names if name in chosen]
