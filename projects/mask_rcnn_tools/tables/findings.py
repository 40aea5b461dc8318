"""What a table's records say: rows beside the paper's, differences to the control, claims."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from mask_rcnn_repro.paper import load_tables, paper_numbers
from mask_rcnn_repro.paper.claims import (
    Claim,
    Evidence,
    Term,
    claims_to_test,
    collect_evidence,
    number_of,
)
from mask_rcnn_repro.records.record import Record
from mask_rcnn_tools.tables.jobs import Job
from mask_rcnn_tools.tables.plan import Plan, PlannedRow, make_plan
from mask_rcnn_tools.tables.progress import last_step
from mask_rcnn_tools.tables.rows import TableRow, all_rows, on_test_dev
from mask_rcnn_tools.tables.usable_records import Found, find_valid

_TIMING = "timing/ms"


@dataclass(frozen=True)
class Cell:
    """One number of a row.

    Attributes:
        metric: such as "segm/AP"; "timing/ms" is milliseconds an image.
        paper: the paper's; None where it prints none.
        by_seed: ours, in the same unit.
        paper_difference: the paper's difference to the control row, if it has one.
        difference: ours, by seed, with its interval; None where there is no control.
    """

    metric: str
    paper: float | None
    by_seed: Mapping[int, float]
    paper_difference: float | None = None
    difference: Evidence | None = None

    @property
    def mean(self) -> float | None:
        """Mean over seeds; None if there are none."""
        return fmean(self.by_seed.values()) if self.by_seed else None

    @property
    def spread(self) -> float | None:
        """Standard deviation over seeds; None for fewer than two."""
        return stdev(self.by_seed.values()) if len(self.by_seed) > 1 else None


@dataclass(frozen=True)
class RowOutcome:
    """A row of a table.

    Attributes:
        row: the row.
        cells: its numbers.
        status: what is missing, such as "not run"; empty if every seed has a record.
        notes: what is to be known about the numbers.
    """

    row: TableRow
    cells: tuple[Cell, ...]
    status: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class TableOutcome:
    """A table with its claims.

    Attributes:
        table: its id.
        profile: scale.
        seeds: asked for.
        rows: in the order of the paper.
        claims: those that a row of it takes part in.
        devices: models of what the runs ran on.
    """

    table: str
    profile: str
    seeds: tuple[int, ...]
    rows: tuple[RowOutcome, ...]
    claims: tuple[Evidence, ...]
    devices: tuple[str, ...]


def table_outcomes(
    plan: Plan,
    seeds: Sequence[int],
    records: Sequence[Found],
    failed: Mapping[Job, str] | None = None,
    all_metrics: bool = False,
) -> list[TableOutcome]:
    """Evaluates the tables of a plan.

    Args:
        plan: the rows.
        seeds: asked for.
        records: as :func:`~mask_rcnn_tools.tables.usable_records.find_records` gives them.
        failed: jobs that failed or could not start, with the reason.
        all_metrics: AP50, AP75 and the like, too.

    Returns:
        One a table, in the order of the rows.
    """
    by_table: dict[str, list[PlannedRow]] = {}
    for planned in plan.rows:
        by_table.setdefault(planned.row.table, []).append(planned)
    result = []
    for table, rows in by_table.items():
        claims = _claims_of(table)
        around = _context(plan, rows, claims)
        runs = {(p.row.table, p.row.row): _records_of(p, records) for p in [*around, *plan.rows]}
        by_config = {p.row.config: (p.row.table, p.row.row) for p in [*around, *plan.rows]}
        own = [r for p in rows for r in runs[p.row.table, p.row.row].values()]
        result.append(
            TableOutcome(
                table,
                plan.profile,
                tuple(seeds),
                tuple(_row(p, runs, by_config, failed or {}, all_metrics) for p in rows),
                tuple(collect_evidence(claims, runs)),
                tuple(sorted({r.device.name for r in own})),
            )
        )
    return result


def _claims_of(table: str) -> list[Claim]:
    """Claims that a row of a table takes part in; for rows on another network those of its kind."""
    claims = [c for c in claims_to_test() if any(t.table == table for t in c.terms)]
    for row in all_rows():
        if row.table == table and row.numbers_of is None and row.differs_as and row.control:
            claims += _claims_on_other_network(row)
    return claims


def _claims_on_other_network(row: TableRow) -> list[Claim]:
    assert row.differs_as is not None
    better, worse = (paper_numbers(*key) for key in row.differs_as)
    control = next(r for r in all_rows() if r.config == row.control)
    original = row.differs_as[0]
    return [
        Claim(
            row.config,
            f"{original[1].removeprefix('+ ')} improves (on this network)",
            "greater",
            f"{task}/AP",
            better[task]["AP"] - worse[task]["AP"],
            (
                Term(1, row.table, row.row, f"{task}/AP"),
                Term(-1, control.table, control.row, f"{task}/AP"),
            ),
            stated=False,
        )
        for task in better
        if task in worse
    ]


def _context(
    plan: Plan, rows: Sequence[PlannedRow], claims: Iterable[Claim]
) -> tuple[PlannedRow, ...]:
    """Rows beside those of the plan that claims and controls look at."""
    have = {(p.row.table, p.row.row) for p in plan.rows}
    wanted = {(t.table, t.row) for claim in claims for t in claim.terms} - have
    controls = {p.row.control for p in rows} - {p.row.config for p in plan.rows}
    others = [r for r in all_rows() if (r.table, r.row) in wanted or r.config in controls]
    if not others:
        return ()
    seeds = sorted({seed for p in plan.rows for seed in p.jobs})
    return make_plan(others, plan.profile, seeds, plan.overrides).rows


def _records_of(planned: PlannedRow, records: Sequence[Found]) -> dict[int, Record]:
    found = {seed: find_valid(job, records) for seed, job in planned.jobs.items()}
    return {seed: f.record for seed, f in found.items() if f is not None}


def _row(
    planned: PlannedRow,
    runs: Mapping[tuple[str, str], Mapping[int, Record]],
    by_config: Mapping[str, tuple[str, str]],
    failed: Mapping[Job, str],
    all_metrics: bool,
) -> RowOutcome:
    row = planned.row
    key = (row.table, row.row)
    own = runs[key]
    control = by_config.get(row.control or "")
    cells = [
        _cell(row, metric, paper, runs, key, control)
        for metric, paper in _metrics(row, own, all_metrics).items()
    ]
    if row.table == "timing":
        cells.append(_timing(row, own))
    return RowOutcome(row, tuple(cells), _status(planned, own, failed), _notes(planned, own))


def _metrics(
    row: TableRow, own: Mapping[int, Record], all_metrics: bool
) -> dict[str, float | None]:
    """The metrics to show, with the paper's numbers."""
    numbers: dict[str, float | None] = {
        f"{task}/{name}": value
        for task, values in row.numbers.items()
        for name, value in values.items()
        if isinstance(value, (int, float)) and (all_metrics or name == "AP")
    }
    if row.table == "7":  # its server's numbers have no counterpart here
        numbers = {k: v for k, v in numbers.items() if not k.startswith("cityscapes_test")}
    if numbers or not own:
        return numbers
    record = next(iter(own.values()))
    return {
        f"{task}/{name}": None
        for task, values in record.metrics.items()
        for name in values.values()
        if all_metrics or name == "AP" or name.startswith("AR@")
    }


def _cell(
    row: TableRow,
    metric: str,
    paper: float | None,
    runs: Mapping[tuple[str, str], Mapping[int, Record]],
    key: tuple[str, str],
    control: tuple[str, str] | None,
) -> Cell:
    ours = {
        seed: value
        for seed, record in runs[key].items()
        if (value := number_of(record, metric)) is not None
    }
    difference = None
    theirs = _paper_difference(row, metric)
    if control is not None:
        terms = (Term(1, *key, metric), Term(-1, *control, metric))
        claim = Claim("", "", "greater", metric, theirs or 0.0, terms)
        difference = collect_evidence([claim], {k: runs[k] for k in (key, control) if k in runs})[0]
    return Cell(metric, paper, ours, theirs, difference)


def _paper_difference(row: TableRow, metric: str) -> float | None:
    if row.differs_as is None:
        return None
    task, _, name = metric.partition("/")
    better, worse = (paper_numbers(*key).get(task, {}).get(name) for key in row.differs_as)
    if not isinstance(better, (int, float)) or not isinstance(worse, (int, float)):
        return None
    return better - worse


def _timing(row: TableRow, own: Mapping[int, Record]) -> Cell:
    printed: Mapping[str, Any] = next(
        r for r in load_tables()[row.table]["rows"] if r["row"] == row.row
    )
    ours = {
        seed: 1000 * record.seconds_per_image.inference
        for seed, record in own.items()
        if record.seconds_per_image is not None
    }
    return Cell(_TIMING, printed.get("ms_per_image"), ours)


def _status(planned: PlannedRow, own: Mapping[int, Record], failed: Mapping[Job, str]) -> str:
    """What is missing, seed by seed where they differ."""
    missing = {s: _why_missing(job, failed) for s, job in planned.jobs.items() if s not in own}
    if not missing:
        return ""
    if len(missing) == len(planned.jobs) and len(set(missing.values())) == 1:
        return next(iter(missing.values()))
    return ", ".join(f"seed {seed} {why}" for seed, why in missing.items())


def _why_missing(job: Job, failed: Mapping[Job, str]) -> str:
    step = last_step(job.folder)
    if step is not None and job.iterations:
        percent = min(100 * step.iteration // job.iterations, 99)
        partial = f"partial: {percent} % of the schedule"
        return f"failed ({partial})" if job in failed else partial
    return "failed" if job in failed else "not run"


def _notes(planned: PlannedRow, own: Mapping[int, Record]) -> tuple[str, ...]:
    row = planned.row
    notes = []
    if on_test_dev(row):
        files = [
            f"{job.folder / 'inference'}"
            for job in planned.server.values()
            if job.record_file.is_file()
        ]
        where = f"its files for the server: {files[0]}" if files else "no files for it yet"
        notes.append(
            "the paper's number is on test-dev, which only COCO's server can tell ("
            f"{where}); here: {planned.note}"
        )
    if row.table == "7" and "cityscapes_test" in row.numbers:
        notes.append("the paper's test AP is from the benchmark's server, which only can tell it")
    if any(not record.iterations_planned for record in own.values()):
        notes.append("trains nothing: the weights of its control, with their seed alone")
    if row.table == "timing" and own:
        record = next(iter(own.values()))
        without = " without the RPN" if record.proposals is not None and planned.jobs else ""
        kept = all(job.cfg.model.proposal_generator is not None for job in planned.jobs.values())
        notes.append(f"ms an image on {record.device.name}{'' if kept else without}")
    return tuple(notes)
