"""Outcomes of the tables of a plan, from the records that count for its jobs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from mask_rcnn_repro.records.curves import CURVES_FILE
from mask_rcnn_repro.records.record import Record
from mask_rcnn_tools.common.curves import load_curves
from mask_rcnn_tools.evidence.claims import Claim
from mask_rcnn_tools.evidence.groups import RowGroup, group_of
from mask_rcnn_tools.evidence.image_bootstrap import BOOTSTRAP_FILE, KnownReplicates
from mask_rcnn_tools.evidence.outcomes import RowOutcome, TableOutcome, collect_evidence
from mask_rcnn_tools.evidence.rows import all_rows
from mask_rcnn_tools.evidence.seed_plan import SeedPlan
from mask_rcnn_tools.tables.jobs import Job
from mask_rcnn_tools.tables.plan import Plan, PlannedRow, make_plan
from mask_rcnn_tools.tables.progress import last_step
from mask_rcnn_tools.tables.usable_records import Found, beside, find_valid


def table_outcomes(
    plan: Plan,
    seeds: Sequence[int],
    records: Sequence[Found],
    failed: Mapping[Job, str] | None = None,
    fixed: SeedPlan | None = None,
    groups: Sequence[RowGroup] = (),
) -> list[TableOutcome]:
    """Evaluates the tables of a plan.

    Args:
        plan: The rows with their jobs.
        seeds: Seeds that were asked for.
        records: From :func:`~mask_rcnn_tools.tables.usable_records.find_records`.
        failed: Jobs that failed or could not start, with the reason.
        fixed: Planned number of seeds of each claim. None if nothing is planned.
        groups: Groups of the rows. Those of tables of the paper may be omitted.

    Returns:
        One outcome per table, in the order of the rows.
    """
    by_table: dict[str, list[PlannedRow]] = {}
    for planned in plan.rows:
        by_table.setdefault(planned.row.table, []).append(planned)
    result = []
    claimed = (fixed or SeedPlan()).planned(plan.profile)
    replicates = KnownReplicates(
        file for f in records if (file := beside(f, BOOTSTRAP_FILE)).is_file()
    )
    known_groups = {group.table: group for group in groups}
    for table, rows in by_table.items():
        group = known_groups.get(table) or group_of(table, tuple(p.row for p in rows))
        claims = group.claims
        known = [
            _outcome(planned, records, failed or {}, group.own)
            for planned in [*_context(plan, rows, claims), *plan.rows]
        ]
        result.append(
            TableOutcome(
                table,
                plan.profile,
                [outcome for outcome in known if outcome.row in [p.row for p in rows]],
                collect_evidence(
                    claims,
                    {o.row.key: o.runs for o in known},
                    {**claimed, **group.planned},
                    replicates,
                ),
                {o.row.id: o for o in known},
                seeds=tuple(seeds),
                heading=group.title,
                note=group.note,
                swept=group.swept,
                own=group.own,
            )
        )
    return result


def _context(
    plan: Plan, rows: Sequence[PlannedRow], claims: Iterable[Claim]
) -> tuple[PlannedRow, ...]:
    """Returns the rows outside the plan that claims and controls use."""
    have = {p.row.key for p in plan.rows}
    wanted = {(t.table, t.row) for claim in claims for t in claim.terms} - have
    controls = {p.row.control for p in rows} - {p.row.id for p in plan.rows}
    others = [r for r in all_rows() if r.key in wanted or r.config in controls]
    if not others:
        return ()
    seeds = sorted({seed for p in plan.rows for seed in p.jobs})
    return make_plan(others, plan.profile, seeds, plan.overrides).rows


def _outcome(
    planned: PlannedRow, records: Sequence[Found], failed: Mapping[Job, str], curves: bool
) -> RowOutcome:
    found = {seed: find_valid(job, records) for seed, job in planned.jobs.items()}
    runs = {seed: f.record for seed, f in found.items() if f is not None}
    learned = {
        seed: load_curves(file)
        for seed, f in found.items()
        if curves and f is not None and (file := beside(f, CURVES_FILE)).is_file()
    }
    missing = _missing(planned, runs, failed)
    return RowOutcome(planned.row, runs, missing, _notes(planned, runs), learned)


def _missing(planned: PlannedRow, runs: Mapping[int, Record], failed: Mapping[Job, str]) -> str:
    """Describes what is missing, by seed if the seeds differ."""
    missing = {s: _why_missing(job, failed) for s, job in planned.jobs.items() if s not in runs}
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


def _notes(planned: PlannedRow, runs: Mapping[int, Record]) -> tuple[str, ...]:
    row = planned.row
    notes = []
    if row.on_test_dev:
        files = [
            f"{job.folder / 'inference'}"
            for job in planned.server.values()
            if job.record_file.is_file()
        ]
        where = f"its files for the server: {files[0]}" if files else "no files for it yet"
        notes.append(
            "the paper's number is on test-dev, which only COCO's server can measure ("
            f"{where}); here: {planned.note}"
        )
    if "cityscapes_test" in row.numbers:
        notes.append(
            "the paper's test AP is from the benchmark's server, which only can measure it"
        )
    if any(not record.iterations_planned for record in runs.values()):
        notes.append("trains nothing: the weights of its control with the same seed")
    if row.is_timing and runs:
        record = next(iter(runs.values()))
        without = " without the RPN" if record.proposals is not None and planned.jobs else ""
        kept = all(job.cfg.model.proposal_generator is not None for job in planned.jobs.values())
        notes.append(f"ms per image on {record.device.name}{'' if kept else without}")
    return tuple(notes)
