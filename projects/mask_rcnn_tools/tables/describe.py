"""What is printed before the runs: an own ablation in words, the runs, and what they cost."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from mask_rcnn_repro.records.record import Record
from mask_rcnn_tools.common.text_tables import Table
from mask_rcnn_tools.evidence.groups import RowGroup, short_keys
from mask_rcnn_tools.evidence.seed_plan import SeedPlan
from mask_rcnn_tools.evidence.titles import metric_title
from mask_rcnn_tools.evidence.verdicts import FEWEST_SEEDS
from mask_rcnn_tools.tables.cost import Device, Estimate, format_seconds, simulate
from mask_rcnn_tools.tables.execute import Slot
from mask_rcnn_tools.tables.expected_power import expected_power, known_scatter, power_note
from mask_rcnn_tools.tables.jobs import Job
from mask_rcnn_tools.tables.plan import Plan
from mask_rcnn_tools.tables.usable_records import Found, find_valid


def format_group(
    group: RowGroup, plan: Plan, known: Sequence[Record], fixed: SeedPlan, seeds: int
) -> str:
    """Describes an own ablation: rows, controls, what is judged, and the power of its seeds."""
    claims = {claim.id: claim for claim in group.claims}
    counts = {
        claim.id: planned.seeds if planned else seeds
        for claim in group.claims
        for planned in [group.planned.get((claim.id, claim.metric))]
    }
    metrics = [claim.metric for claim in group.claims if counts[claim.id] >= FEWEST_SEEDS]
    own = {j.hash for p in plan.rows if p.row in group.rows for j in p.jobs.values()}
    scatter = known_scatter(metrics, plan.profile, known, own, fixed)
    names = {row.id: row.name for row in group.rows}
    lines = []
    for row in group.rows:
        claim = claims.get(row.id)
        judged = reached = ""
        if claim:
            reached = expected_power(claim, counts[row.id], scatter)
            margin = f", margin {claim.margin:g}" if claim.margin else ""
            judged = f"{metric_title(claim.metric)} {claim.relation}{margin}"
        values = [value for _, value in row.settings]
        control = names.get(row.control or "", "-")
        lines.append([row.config, *values, control, judged or "-", reached or "-"])
    header = ["row", *short_keys(group.swept), "control", "expected", "power"]
    notes = [text for text in (power_note(metrics, scatter), group.note) if text]
    return "\n\n".join([f"{group.title}:\n{Table(header, lines).text()}", *notes])


def format_plan(
    title: str,
    plan: Plan,
    jobs: Sequence[Job],
    records: Sequence[Found],
    estimates: Mapping[Job, Estimate],
    device: Device,
    slots: Sequence[Slot],
) -> str:
    """Describes the plan: what is run, in which order and why, what is not run, and the cost."""
    lines = []
    for number, job in enumerate(jobs, 1):
        needs = [str(jobs.index(stage) + 1) for _, stage in job.inputs if stage in jobs]
        if job.iterations:
            work = f"{job.iterations} iterations"
        else:
            work = "evaluation"
        lines.append(
            [
                str(number),
                job.name,
                work,
                ", ".join(needs) or "-",
                format_seconds(estimates[job].seconds),
                estimates[job].source,
            ]
        )
    parts = []
    skipped = _skipped(plan, jobs, records)
    if skipped:
        parts.append("Have a record that counts:\n" + "\n".join(f"  {line}" for line in skipped))
    if not jobs:
        return "\n\n".join([*parts, f"{title}: nothing to run."]) + "\n"
    headers = ["", "run", "what", "after", "about", "estimated from"]
    parts.append(f"{title}: {len(jobs)} runs\n" + Table(headers, lines).text())
    seconds = {job: estimates[job].seconds for job in jobs}
    total, wall = sum(seconds.values()), simulate(jobs, seconds, len(slots))
    many = device.type == "cuda" and len(slots) > 1
    kind = f"{len(slots)} x {device.name}" if many else device.name
    side = f", up to {len(slots)} side by side" if len(slots) > 1 else ""
    parts.append(
        f"About {format_seconds(wall)} on {kind}{side} ({format_seconds(total)} of work). Runs go "
        f"to {plan.output_root}/."
    )
    return "\n\n".join(parts) + "\n"


def _skipped(plan: Plan, jobs: Sequence[Job], records: Sequence[Found]) -> list[str]:
    lines = {}
    for planned in plan.rows:
        for job in planned.jobs.values():
            found = find_valid(job, records)
            if job not in jobs and found is not None:
                lines[job] = f"{job.name}: {relative(found.file)}"
    return list(lines.values())


def relative(file: Path) -> str:
    """Returns a path relative to the current directory, if it is below it."""
    with contextlib.suppress(ValueError):
        return str(file.resolve().relative_to(Path.cwd()))
    return str(file)
