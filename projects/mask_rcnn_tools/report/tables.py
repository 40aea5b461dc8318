"""Makes the tables of a report. No cell is blank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mask_rcnn_repro.records.record import Record
from mask_rcnn_tools.common.text_tables import Table, TableCell
from mask_rcnn_tools.evidence.groups import short_keys
from mask_rcnn_tools.evidence.outcomes import RowOutcome, TableOutcome
from mask_rcnn_tools.evidence.titles import best_title, number, task_title
from mask_rcnn_tools.report.runs import Runs
from mask_rcnn_tools.report.scales import Scale

_FINER = ("AP50", "AP75")
_STAGES = {  # task to table, heading of its rows, and metrics by their headings
    "proposals": (
        "rpn",
        "RPN stage",
        {name: f"proposals/{name}" for name in ("AR@100", "AR@300", "AR@1000")},
    ),
    "classification": (
        "pretrain",
        "pre-training stage",
        {"top-1": "classification/top1", "top-5": "classification/top5"},
    ),
}


def rows_table(outcome: TableOutcome) -> Table:
    """Makes a table of rows: the paper's numbers, ours, and differences to the control."""
    tasks = {task for row in outcome.rows for task in row.tasks}
    for task, (table, kind, metrics) in _STAGES.items():
        if task in tasks or outcome.table == table:
            return _stage_table(outcome, kind, metrics)
    paper = any(row.row.numbers for row in outcome.rows)
    against = any(row.row.control for row in outcome.rows)
    header = ["row", *short_keys(outcome.swept), "in"]
    header += ["AP, paper"] * paper + ["AP, here"]
    header += ["AP50, AP75, paper"] * paper + ["AP50, AP75, here"]
    header += ["against", "difference, paper", "difference, here"] * against
    lines: list[list[TableCell | str]] = []
    for row in outcome.rows:
        for task in row.tasks or ["-"]:
            finer = [f"{task}/{name}" for name in _FINER]
            printed = row.row.printed_number(f"{task}/AP")
            name = row.row.config.rpartition("/")[2] if outcome.swept else row.row.name
            cells: list[TableCell | str] = [TableCell(name, row.row.config)]
            cells += [*(value for _, value in row.row.settings), task_title(task)]
            cells += [_number(number(printed))] * paper
            cells.append(_ours(row, f"{task}/AP"))
            cells += [_number(_pair([row.row.printed_number(m) for m in finer]))] * paper
            cells.append(_number(_pair([row.ours(m).mean for m in finer])))
            cells += _against(outcome, row, f"{task}/AP") if against else []
            lines.append([*cells, row.seeds or "none"])
    return Table([*header, "seed"], lines)


def runs_table(scale: Scale, runs: Runs) -> Table:
    """Makes a table of the runs at one scale, with what is needed to repeat them."""
    found: dict[str, tuple[str, Record]] = {}
    for row in scale.rows:
        for record in row.runs.values():
            key = f"{record.config.hash} {record.seed}"
            found.setdefault(key, (row.row.config, record))
    bests = any(record.best for _, record in found.values())
    lines: list[list[TableCell | str]] = []
    for config, record in found.values():
        seconds = record.training_seconds
        commit = (record.code.commit or "unknown")[:9]
        lines.append(
            [
                TableCell(config, config),
                _number(str(record.seed)),
                _iterations(record),
                _number("-" if seconds is None else f"{seconds / 60:.0f}"),
                record.device.name,
                commit + (" with changes" if record.code.dirty else ""),
                record.created[:10],
                "yes" if runs.curves_of(record) else "no",
                *[best_title(record.best) if record.best else "-"] * bests,
            ]
        )
    header = ["run", "seed", "iterations", "minutes", "on", "commit", "date", "curves"]
    return Table([*header, *["best checkpoint"] * bests], lines)


def _iterations(record: Record) -> TableCell:
    early = f"{record.iterations_done} of " if record.stopped_early else ""
    return _number(f"{early}{record.iterations_planned}{', stopped early' if early else ''}")


def _stage_table(outcome: TableOutcome, kind: str, metrics: Mapping[str, str]) -> Table:
    lines: list[list[TableCell | str]] = []
    for row in outcome.rows:
        measured = [_number(row.ours(metric).with_deviation()) for metric in metrics.values()]
        cells = measured if row.runs else [_state(row)] * len(metrics)
        lines.append([TableCell(row.row.name, row.row.config), *cells, row.seeds or "none"])
    return Table([kind, *(f"{name}, here" for name in metrics), "seed"], lines)


def _number(text: str) -> TableCell:
    return TableCell(text, kind="number")


def _state(row: RowOutcome) -> TableCell:
    return TableCell(
        row.missing, kind="partial" if row.missing.startswith("partial") else "not run"
    )


def _ours(row: RowOutcome, metric: str) -> TableCell:
    if not row.runs:
        return _state(row)
    values = row.ours(metric)
    if not values.by_seed:
        return TableCell("not measured", kind="not run")
    return _number(values.with_deviation())


def _pair(values: Sequence[float | None]) -> str:
    return ", ".join(number(v) for v in values) if any(v is not None for v in values) else "-"


def _against(outcome: TableOutcome, row: RowOutcome, metric: str) -> list[TableCell]:
    control, difference = outcome.control_of(row), outcome.difference(row, metric)
    if control is None or difference is None:
        return [TableCell("-")] * 3
    return [
        TableCell(control.row.name),
        _number(number(row.row.printed_difference(metric), sign=True)),
        _number(difference.with_interval()),
    ]
