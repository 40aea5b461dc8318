"""Checks whether new runs reproduce the recorded ones: `--reproduce`.

For each metric of each row, the mean over the new seeds is compared with the mean over the recorded
seeds. Results scatter over seeds. On another machine, the same seed scatters as well, because sums
are rounded in another order there. For each metric, the standard deviation s over seeds is pooled
over the recorded rows of the command. The means of n recorded and m new seeds of one row then
differ by at most

    t * s * sqrt(1 / n + 1 / m)

with t of Student's distribution, whose degrees of freedom are those of s. For k comparisons t is
the quantile at which all of them hold with a chance of 95 % if the runs do repeat the recorded
ones (Bonferroni: 0.05 / k for each, both ends).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import variance
from typing import Literal

from scipy.special import stdtrit

from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.records.curves import record_identity
from mask_rcnn_repro.records.record import Record
from mask_rcnn_tools.common.text_tables import Table, TableCell
from mask_rcnn_tools.evidence.claims import main_metric
from mask_rcnn_tools.evidence.comparison import number_of
from mask_rcnn_tools.evidence.outcomes import BySeed, why_apart
from mask_rcnn_tools.evidence.rows import Row
from mask_rcnn_tools.evidence.seed_plan import FEWEST_DEGREES
from mask_rcnn_tools.evidence.titles import metric_title, number
from mask_rcnn_tools.evidence.verdicts import ERROR
from mask_rcnn_tools.tables.plan import Plan, PlannedRow
from mask_rcnn_tools.tables.usable_records import Found, find_valid

DIFFERS = 3
"""Exit status if a row differs, equal to that of `train_net.py --verify`."""

Verdict = Literal["reproduced", "differs", "other data"]


@dataclass(frozen=True)
class Repetition:
    """One metric of a row, recorded and repeated.

    Attributes:
        row: Name of the row.
        metric: Such as "segm/AP".
        recorded, repeated: Percent by seed. Neither is empty.
        allowed: Largest difference of the means that the scatter over seeds explains, in points.
        other_data: Why the runs cannot be compared. Empty if they can.
    """

    row: str
    metric: str
    recorded: BySeed
    repeated: BySeed
    allowed: float
    other_data: str = ""

    @property
    def difference(self) -> float:
        """Mean of the repeated runs minus that of the recorded ones, in points."""
        return (self.repeated.mean or 0.0) - (self.recorded.mean or 0.0)

    @property
    def verdict(self) -> Verdict:
        """Whether the difference is within what is allowed."""
        if self.other_data:
            return "other data"
        return "reproduced" if abs(self.difference) <= self.allowed else "differs"


def pooled_scatter(rows: Sequence[BySeed]) -> tuple[float, int]:
    """Returns the standard deviation over seeds, pooled over rows, and its degrees of freedom.

    In points. A row with fewer than two seeds adds nothing. Without degrees of freedom both are 0.
    """
    values = [list(row.by_seed.values()) for row in rows if len(row.by_seed) > 1]
    degrees = sum(len(v) - 1 for v in values)
    squares = sum((len(v) - 1) * variance(v) for v in values)
    return (math.sqrt(squares / degrees), degrees) if degrees else (0.0, 0)


def allowed_difference(
    seed_sd: float, degrees: int, recorded: int, repeated: int, comparisons: int
) -> float:
    """Returns the largest difference of two means that the scatter over seeds explains, in points.

    Args:
        seed_sd: Standard deviation over seeds, in points.
        degrees: Its degrees of freedom, at least 1.
        recorded, repeated: Numbers of seeds, at least 1.
        comparisons: Number of differences that are compared together, at least 1.
    """
    quantile = float(stdtrit(degrees, 1 - ERROR / (2 * comparisons)))
    return quantile * seed_sd * math.sqrt(1 / recorded + 1 / repeated)


def check_recorded(plan: Plan, records: Sequence[Found]) -> None:
    """Checks before anything is run that there are records to compare with.

    Args:
        plan: Rows with their jobs.
        records: From :func:`~mask_rcnn_tools.tables.usable_records.find_records`.

    Raises:
        ConfigError: A run has no recorded counterpart, a row has no number, the recorded seeds are
            too few to know their scatter, or a run here is the recorded one itself.
    """
    recorded = _runs(plan, [f for f in records if not f.local])
    lacking = [
        f"{row.row.name} (seed {', '.join(map(str, seeds))})"
        for row in plan.rows
        if (seeds := sorted(row.jobs.keys() - recorded[row.row].keys()))
    ]
    if lacking:
        many = f"for {', '.join(lacking)}" if any(recorded.values()) else "for any of the rows"
        raise ConfigError(
            f"Nothing was run, because there is nothing to compare with: no record counts {many} "
            f"at profile {plan.profile} with these seeds in the folder of committed results. "
            "Without --reproduce the command runs the table."
        )
    for row in plan.rows:
        metrics = _metrics(row, recorded[row.row])
        if not metrics:
            raise ConfigError(f"The recorded runs of {row.row.name} have no AP to compare.")
    for metric, (_, degrees) in _scatter(plan, recorded).items():
        if degrees < FEWEST_DEGREES:
            raise ConfigError(
                f"The scatter of {metric_title(metric)} over seeds has {degrees} degrees of "
                f"freedom, {FEWEST_DEGREES} are needed: n seeds of a row give n - 1. Give more "
                "--seeds or more rows."
            )
    known = {record_identity(f.record).model_dump_json() for f in records if not f.local}
    for found in records:
        if found.local and record_identity(found.record).model_dump_json() in known:
            raise ConfigError(
                f"{found.file} is the recorded run itself, so that it repeats nothing. Name "
                "another folder for the runs: train.output_root=output/reproduce"
            )


def compare_runs(plan: Plan, records: Sequence[Found]) -> list[Repetition]:
    """Compares new runs with the recorded ones.

    Args:
        plan, records: As for :func:`check_recorded`, which must have accepted them. Rows without a
            new run are omitted.
    """
    recorded = _runs(plan, [f for f in records if not f.local])
    repeated = _runs(plan, [f for f in records if f.local])
    scatter = _scatter(plan, recorded)
    pairs = [(r, m) for r in plan.rows if repeated[r.row] for m in _metrics(r, recorded[r.row])]
    found = []
    for row, metric in pairs:
        then, now = (_numbers(runs[row.row], metric) for runs in (recorded, repeated))
        if not now.by_seed:
            continue
        counts = (len(then.by_seed), len(now.by_seed))
        allowed = allowed_difference(*scatter[metric], *counts, len(pairs))
        both = [*recorded[row.row].values(), *repeated[row.row].values()]
        apart = why_apart(both, stages=False)
        found.append(Repetition(row.row.name, metric, then, now, allowed, apart))
    return found


def format_repetitions(found: Sequence[Repetition]) -> str:
    """Formats the comparison as a table and a verdict in one sentence. `found` is not empty."""
    lines: list[list[TableCell | str]] = []
    for item in found:
        numbers = [item.recorded.with_deviation(), item.repeated.with_deviation()]
        numbers += [number(item.difference, sign=True), f"±{item.allowed:.1f}"]
        cells = [TableCell(text, kind="number") for text in numbers]
        seeds = f"{item.recorded.seeds}; {item.repeated.seeds}"
        title = metric_title(item.metric)
        lines.append([item.row, title, *cells, seeds, item.other_data or item.verdict])
    header = ["row", "in", "recorded", "here", "difference", "allowed", "seeds: recorded; here"]
    table = Table([*header, "verdict"], lines).text()
    differing = [item for item in found if item.verdict != "reproduced"]
    if not differing:
        sentence = f"Verdict: reproduced. All {len(found)} means are within the scatter over seeds."
    else:
        named = "; ".join(
            f"{i.row} ({i.other_data or f'{metric_title(i.metric)} {number(i.difference, True)}'})"
            for i in differing
        )
        sentence = f"Verdict: not reproduced. {len(differing)} of {len(found)} differ: {named}."
    return f"Compared with the recorded runs:\n\n{table}\n\n{sentence}"


def report_repetition(plan: Plan, records: Sequence[Found]) -> int:
    """Prints the comparison and returns the exit status, 0 or :data:`DIFFERS`."""
    found = compare_runs(plan, records)
    print(f"\n{format_repetitions(found)}", flush=True)
    return 0 if all(item.verdict == "reproduced" for item in found) else DIFFERS


def _runs(plan: Plan, records: Sequence[Found]) -> dict[Row, dict[int, Record]]:
    """Maps row and seed to the record that counts for the job."""
    found = {}
    for row in plan.rows:
        of_seeds = {seed: find_valid(job, records) for seed, job in row.jobs.items()}
        found[row.row] = {seed: f.record for seed, f in of_seeds.items() if f is not None}
    return found


def _metrics(row: PlannedRow, recorded: Mapping[int, Record]) -> list[str]:
    """Returns the AP of the tasks that the paper prints for a row, or else of its main task."""
    job = next(iter(row.jobs.values()))
    asked = [f"{task}/AP" for task in row.row.tasks] or [main_metric(job.cfg)]
    return [metric for metric in asked if _numbers(recorded, metric).by_seed]


def _numbers(runs: Mapping[int, Record], metric: str) -> BySeed:
    found = {seed: number_of(record, metric) for seed, record in sorted(runs.items())}
    return BySeed({seed: value for seed, value in found.items() if value is not None})


def _scatter(
    plan: Plan, recorded: Mapping[Row, Mapping[int, Record]]
) -> dict[str, tuple[float, int]]:
    """Maps metrics to their scatter, see :func:`pooled_scatter`. Equal configs count once."""
    by_metric: dict[str, list[BySeed]] = {}
    for row in {tuple(p.jobs.values()): p for p in plan.rows}.values():
        for metric in _metrics(row, recorded[row.row]):
            by_metric.setdefault(metric, []).append(_numbers(recorded[row.row], metric))
    return {metric: pooled_scatter(rows) for metric, rows in by_metric.items()}
