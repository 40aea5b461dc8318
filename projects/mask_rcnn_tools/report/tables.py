"""The tables of a report as cells, which pages turn into Markdown or HTML. No cell is blank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mask_rcnn_repro.paper.claims import Evidence
from mask_rcnn_repro.paper.results import task_title
from mask_rcnn_repro.records.record import Record
from mask_rcnn_tools.report.format import (
    RELATIONS,
    in_words,
    number,
    spread,
    table_label,
    with_interval,
)
from mask_rcnn_tools.report.rows import (
    RowResult,
    Scale,
    Section,
    difference,
    paper_difference,
)
from mask_rcnn_tools.report.store import Material


class Cell(NamedTuple):
    """One cell.

    Attributes:
        text: what it says.
        config: id of a config that it is about, to be linked.
        kind: "", "number", or a verdict or state, to be shown by its look.
    """

    text: str
    config: str | None = None
    kind: str = ""


class Table(NamedTuple):
    """A table.

    Attributes:
        header: names of the columns.
        lines: cells, as many a line as there are columns.
    """

    header: Sequence[str]
    lines: Sequence[Sequence[Cell]]


def rows_table(section: Section) -> Table:
    """The rows of one table of the paper: its numbers, ours, and differences to the control row."""
    if any("proposals" in row.tasks for row in section.rows) or section.table == "rpn":
        return _recall_table(section)
    paper = any(row.paper for row in section.rows)
    against = any(row.row.control for row in section.rows)
    header = ["row", "in"]
    header += ["AP, paper"] * paper + ["AP, here"]
    header += ["AP50, AP75, paper"] * paper + ["AP50, AP75, here"]
    header += ["against", "difference, paper", "difference, here"] * against
    lines = []
    for row in section.rows:
        for task in row.tasks or ["-"]:
            cells = [Cell(row.row.name, row.row.config)]
            cells.append(Cell(f"{task_title(task)}" if task != "-" else "-"))
            cells += [_number(number(row.theirs(task)))] * paper
            cells.append(_ours(row, task))
            cells += [_number(_pair([row.theirs(task, m) for m in _FINER]))] * paper
            means = [s.mean if (s := row.ours(task, m)) else None for m in _FINER]
            cells.append(_number(_pair(means) if row.runs else "-"))
            cells += _against(section, row, task) if against else []
            lines.append(cells)
    return Table([*header, "seed"], [[*line, _seeds(section, line)] for line in lines])


def claims_table(evidence: Sequence[Evidence], with_table: bool = False) -> Table:
    """Claims and what our runs say about them.

    Args:
        evidence: on which.
        with_table: name the table of each.
    """
    lines = []
    for item in evidence:
        claim = item.claim
        text = claim.text + ("" if claim.stated else " (seen in the rows, not said)")
        relation = f" ({RELATIONS[claim.relation]})" if claim.relation in RELATIONS else ""
        lines.append(
            [
                *[Cell(table_label(claim.terms[0].table))] * with_table,
                Cell(text),
                Cell(in_words(claim.metric)),
                _number(f"{number(claim.delta, sign=True)}{relation}"),
                _number(with_interval(item)),
                Cell(", ".join(map(str, item.by_seed)) or "none"),
                Cell(item.verdict, kind=item.verdict),
                Cell(item.reason or "-"),
            ]
        )
    header = ["claim", "in", "paper", "here", "seed", "verdict", "because"]
    return Table(["table"] * with_table + header, lines)


def runs_table(scale: Scale, material: Material) -> Table:
    """Every run that a report at one scale stands on, with what is needed to repeat it."""
    found: dict[str, tuple[str, Record]] = {}
    for section in scale.sections:
        for row in section.rows:
            for record in row.runs.values():
                key = f"{record.config.hash} {record.seed}"
                found.setdefault(key, (row.row.config, record))
    lines = []
    for config, record in found.values():
        hours = record.training_seconds
        commit = (record.code.commit or "unknown")[:9]
        lines.append(
            [
                Cell(config, config),
                _number(str(record.seed)),
                _number(str(record.iterations_planned)),
                _number("-" if hours is None else f"{hours / 60:.0f}"),
                Cell(record.device.name),
                Cell(commit + (" with changes" if record.code.dirty else "")),
                Cell(record.created[:10]),
                Cell("yes" if material.curves_of(record) else "no"),
            ]
        )
    header = ["run", "seed", "iterations", "minutes", "on", "commit", "date", "curves"]
    return Table(header, lines)


_FINER = ("AP50", "AP75")


def _recall_table(section: Section) -> Table:
    metrics = ("AR@100", "AR@300", "AR@1000")
    lines = [
        [
            Cell(row.row.name, row.row.config),
            *(
                _number(spread(row.ours("proposals", m))) if row.runs else _state(row)
                for m in metrics
            ),
            Cell(", ".join(map(str, row.runs)) or "none"),
        ]
        for row in section.rows
    ]
    return Table(["RPN stage", *(f"{m}, here" for m in metrics), "seed"], lines)


def _number(text: str) -> Cell:
    return Cell(text, kind="number")


def _state(row: RowResult) -> Cell:
    return Cell(row.state, kind="partial" if row.state.startswith("partial") else "not run")


def _ours(row: RowResult, task: str) -> Cell:
    if not row.runs:
        return _state(row)
    values = row.ours(task)
    return Cell("not measured", kind="not run") if values is None else _number(spread(values))


def _pair(values: Sequence[float | None]) -> str:
    return ", ".join(number(v) for v in values) if any(v is not None for v in values) else "-"


def _against(section: Section, row: RowResult, task: str) -> list[Cell]:
    control = section.control_of(row)
    if control is None:
        return [Cell("-")] * 3
    shared = difference(row, control, task)
    return [
        Cell(control.row.name),
        _number(number(paper_difference(row, control, task), sign=True)),
        _number(with_interval(shared)),
    ]


def _seeds(section: Section, line: Sequence[Cell]) -> Cell:
    row = next(r for r in section.rows if r.row.config == line[0].config)
    return Cell(", ".join(map(str, row.runs)) or "none")
