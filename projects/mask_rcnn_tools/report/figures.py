"""Content of a report: the outcomes at each scale, and plots with names and captions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mask_rcnn_tools.evidence.outcomes import TableOutcome
from mask_rcnn_tools.evidence.rows import Row
from mask_rcnn_tools.evidence.sweep_plot import draw_sweep
from mask_rcnn_tools.evidence.titles import table_label, task_title
from mask_rcnn_tools.report.claims_plot import draw_claims
from mask_rcnn_tools.report.plots import draw_classes, draw_learning, draw_precision_recall
from mask_rcnn_tools.report.runs import Runs
from mask_rcnn_tools.report.scales import Scale, build_scales

CLAIMS = "claims"
"""Key of the plot of all tables."""


class Figure(NamedTuple):
    """A plot.

    Attributes:
        name: Name of its file.
        title: A few words.
        caption: What it shows and how to read it.
        svg: Text of the file.
    """

    name: str
    title: str
    caption: str
    svg: str


Figures = Mapping[str, Sequence[Figure]]
"""Maps a table, or :data:`CLAIMS`, to its plots."""


@dataclass(frozen=True)
class Report:
    """The content of the pages.

    Attributes:
        runs: Records and the files beside them.
        scales: Full scale first.
        figures: Maps profiles to their plots. Profiles without a run are omitted.
    """

    runs: Runs
    scales: Sequence[Scale]
    figures: Mapping[str, Figures]

    def all_figures(self) -> Iterator[Figure]:
        """Returns all plots."""
        for figures in self.figures.values():
            for found in figures.values():
                yield from found


def build_report(rows: Sequence[Row], runs: Runs) -> Report:
    """Computes and draws everything; see :func:`~.scales.build_scales` for the arguments."""
    scales = build_scales(rows, runs)
    return Report(runs, scales, {s.profile: figures_of(s) for s in scales if s.was_run})


def figures_of(scale: Scale) -> Figures:
    """Draws all plots of a scale. Runs that an earlier table has shown are not drawn again."""
    figures: dict[str, list[Figure]] = {}
    name = f"{scale.profile}-claims.svg"
    if figure := _figure(name, "The paper's claims and what runs show", "", draw_claims(scale)):
        figures[CLAIMS] = [figure]
    drawn: set[tuple[str, int]] = set()
    for table in scale.tables:
        runs = {(r.config.hash, s) for row in table.rows for s, r in row.runs.items()}
        if runs - drawn or sum(bool(row.runs) for row in table.rows) > 1:
            figures[table.table] = _of_table(table)
        drawn |= runs
    return figures


_CAPTIONS = {
    "The paper's claims and what runs show": "Each row shows one claim of the paper, in its main "
    "metric. The hatched bar is the paper's difference between two configs. The marker is ours, "
    "and its shape and color give the verdict. The whisker is the 90 % interval that decides it. "
    "An arrow marks an interval that extends beyond the axis. One seed has no interval.",
    "Learning": "Left: the training loss, the mean over seeds in bold and each seed thin. Right: "
    "the metric of the table, one mark per seed and evaluation.",
    "Precision over recall": "Precision over recall of the {task} results, averaged over classes. "
    "The area under the curve is AP50 (left) and AP (right). The band spans the seeds.",
    "Sweep": "The judged metric over the swept value. The line joins the means over seeds, bars "
    "are their 90 % intervals, and small dots are single seeds.",
    "AP by class": "The {task} AP of each class: the mean over seeds, on a line that spans "
    "the seeds.",
}


def _figure(name: str, title: str, task: str, svg: str | None) -> Figure | None:
    caption = _CAPTIONS[title.partition(",")[0]].format(task=task)
    return None if svg is None else Figure(name, title, caption, svg)


def _of_table(table: TableOutcome) -> list[Figure]:
    label = table_label(table.table)
    stem = re.sub(r"[^A-Za-z0-9-]+", "-", f"{table.profile}-{table.table}")
    found = [
        _figure(f"{stem}-sweep-{place}.svg", f"Sweep, {key}, {label}", "", draw_sweep(table, key))
        for place, key in enumerate(table.swept)
    ]
    found += [_figure(f"{stem}-learning.svg", f"Learning, {label}", "", draw_learning(table))]
    for task in dict.fromkeys(task for row in table.rows for task in row.measured_tasks):
        if task == "proposals":
            continue
        title = task_title(task)
        for kind, words, draw in (
            ("precision", "Precision over recall", draw_precision_recall),
            ("classes", "AP by class", draw_classes),
        ):
            name = f"{stem}-{kind}-{task}.svg"
            found.append(_figure(name, f"{words}, {title}, {label}", title, draw(table, task)))
    return [figure for figure in found if figure is not None]
