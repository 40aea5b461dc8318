"""Which plots a report has, and what they are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mask_rcnn_repro.paper.results import task_title
from mask_rcnn_tools.report.format import table_label
from mask_rcnn_tools.report.plots import (
    draw_classes,
    draw_differences,
    draw_learning,
    draw_precision_recall,
)
from mask_rcnn_tools.report.rows import Scale, Section

DIFFERENCES = "differences"
"""Key of the plot over all tables."""


class Figure(NamedTuple):
    """A plot.

    Attributes:
        name: of its file.
        title: a few words.
        caption: what it shows and how to read it.
        svg: its text.
    """

    name: str
    title: str
    caption: str
    svg: str


Figures = Mapping[str, Sequence[Figure]]
"""Table, or :data:`DIFFERENCES`, to its plots."""


def figures_of(scale: Scale) -> Figures:
    """Draws all plots of a scale. Runs that an earlier table has shown are not drawn again."""
    figures: dict[str, list[Figure]] = {}
    svg = draw_differences(scale)
    if svg is not None:
        caption = (
            "Each pair is one claim about rows of the paper: hatched the paper's difference, solid "
            "ours. Dots are single seeds, the line is the 90 % interval of their mean, which the "
            "verdict is taken from; one seed has none."
        )
        figures[DIFFERENCES] = [
            Figure(
                f"{scale.profile}-differences.svg", "The paper's differences and ours", caption, svg
            )
        ]
    drawn: set[tuple[str, int]] = set()
    for section in scale.sections:
        runs = {(r.config.hash, s) for row in section.rows for s, r in row.runs.items()}
        if runs - drawn or sum(bool(row.runs) for row in section.rows) > 1:
            figures[section.table] = list(_of_table(section, scale.profile))
        drawn |= runs
    return figures


def _of_table(section: Section, profile: str) -> list[Figure]:
    label = table_label(section.table)
    stem = f"{profile}-{section.table}".replace("_", "-").replace(".", "-")
    found = []
    svg = draw_learning(section)
    if svg is not None:
        caption = (
            "Left the training loss: the mean over seeds, and thin each seed. Right the metric "
            "that the table is about, one mark a seed and evaluation."
        )
        found.append(Figure(f"{stem}-learning.svg", f"Learning, {label}", caption, svg))
    for task in _tasks(section):
        title = task_title(task)
        svg = draw_precision_recall(section, task)
        if svg is not None:
            caption = (
                f"Precision over recall of the {title} results, averaged over classes. The area "
                "below is AP50 (left) and AP (right). The band lies between seeds."
            )
            found.append(
                Figure(
                    f"{stem}-precision-{task}.svg",
                    f"Precision over recall, {title}, {label}",
                    caption,
                    svg,
                )
            )
        svg = draw_classes(section, task)
        if svg is not None:
            caption = f"The {title} AP of each class: mean over seeds, on a line between them."
            found.append(
                Figure(f"{stem}-classes-{task}.svg", f"AP by class, {title}, {label}", caption, svg)
            )
    return found


def _tasks(section: Section) -> list[str]:
    """Tasks of the records that a table is about."""
    kinds = dict.fromkeys(kind for row in section.rows for kind in row.kinds)
    return [kind for kind in kinds if kind != "proposals"]
