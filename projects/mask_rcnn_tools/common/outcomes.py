"""Records as outcomes of rows, by seed: numbers, differences to the control row, claims.

:mod:`mask_rcnn_tools.common.verdicts` has the rule by which a claim is confirmed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev

from mask_rcnn_repro.paper.claims import Claim
from mask_rcnn_repro.paper.comparison import number_of
from mask_rcnn_repro.paper.rows import PaperRow, Row
from mask_rcnn_repro.paper.tables import Cell, Table
from mask_rcnn_repro.paper.words import metric_title, number, table_title
from mask_rcnn_repro.records.curves import Curves
from mask_rcnn_repro.records.record import Record
from mask_rcnn_tools.common.verdicts import Interval, Verdict, interval_of, judge


@dataclass(frozen=True)
class BySeed:
    """Numbers by seed; may be empty."""

    by_seed: Mapping[int, float]

    @property
    def mean(self) -> float | None:
        """Mean over the seeds; None for none."""
        return fmean(self.by_seed.values()) if self.by_seed else None

    @property
    def deviation(self) -> float | None:
        """Standard deviation over the seeds; None for fewer than two."""
        return stdev(self.by_seed.values()) if len(self.by_seed) > 1 else None

    @property
    def interval(self) -> Interval | None:
        """Student's 90 % interval of the mean; None for fewer than two seeds."""
        return interval_of(list(self.by_seed.values()))

    @property
    def seeds(self) -> str:
        """The seeds, such as "0, 1"; empty for none."""
        return ", ".join(map(str, sorted(self.by_seed)))

    def with_deviation(self) -> str:
        """Such as "30.4 ± 1.3"; a dash for none."""
        deviation = "" if self.deviation is None else f" ± {self.deviation:.1f}"
        return number(self.mean) + deviation

    def with_interval(self) -> str:
        """Such as "+6.5 [+3.3, +9.7]"; a dash for none."""
        ends = ", ".join(number(end, sign=True) for end in self.interval or ())
        return number(self.mean, sign=True) + (f" [{ends}]" if ends else "")


@dataclass(frozen=True)
class Evidence(BySeed):
    """The difference that a claim is about, as runs show it.

    Attributes:
        by_seed: the difference for each seed for which all rows were run, in points.
        claim: the claim.
        profile: scale of the runs.
        missing: table and row of those without any run.
    """

    claim: Claim
    profile: str = "paper"
    missing: tuple[PaperRow, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """Whether the runs confirm the claim, by the rule of :mod:`.verdicts`."""
        return judge(self.claim.relation, list(self.by_seed.values()), self.profile).verdict

    @property
    def reason(self) -> str:
        """Why, in a few words."""
        if self.by_seed:
            return judge(self.claim.relation, list(self.by_seed.values()), self.profile).reason
        if self.missing:
            return "no run of " + ", ".join(f"{row} ({table})" for table, row in self.missing)
        return "no seed has all rows and numbers"


@dataclass(frozen=True)
class RowOutcome:
    """The runs of a row at one scale.

    Attributes:
        row: the row.
        runs: seed to record of a complete run.
        missing: what is missing, such as `not run` or `partial: 12 % of the schedule`; empty where
            every seed that was asked for has a record.
        notes: what has to be known about the numbers.
        curves: seed to curves, of those runs that have some.
    """

    row: Row
    runs: Mapping[int, Record]
    missing: str = ""
    notes: tuple[str, ...] = ()
    curves: Mapping[int, Curves] = field(default_factory=dict)

    @property
    def tasks(self) -> list[str]:
        """Tasks to show: those of the paper, or without these all that were measured."""
        if self.row.tasks:
            return self.row.tasks
        return list(next(iter(self.runs.values())).metrics) if self.runs else []

    @property
    def measured_tasks(self) -> list[str]:
        """The tasks as records name them: `bbox` for the paper's `bbox_person`."""
        kinds = [task.partition("_")[0] for task in self.tasks]
        return list(dict.fromkeys("segm" if kind == "cityscapes" else kind for kind in kinds))

    @property
    def seeds(self) -> str:
        """The seeds of the runs, such as "0, 1"."""
        return ", ".join(map(str, sorted(self.runs)))

    def ours(self, metric: str) -> BySeed:
        """Our numbers for a metric such as "segm/AP", in percent."""
        return _numbers(self.runs, metric)


@dataclass(frozen=True)
class TableOutcome:
    """A table at one scale.

    Attributes:
        table: id in tables.json, or a folder of configs.
        profile: scale.
        rows: in the order of the paper.
        claims: the evidence on its claims.
        by_config: config to outcome, of all rows that may be controls, of any table.
        note: what has to be known to read it; may be empty.
        seeds: that were asked for, where a command names them.
    """

    table: str
    profile: str
    rows: Sequence[RowOutcome]
    claims: Sequence[Evidence]
    by_config: Mapping[str, RowOutcome]
    note: str = ""
    seeds: tuple[int, ...] = ()

    @property
    def title(self) -> str:
        """Its heading."""
        return table_title(self.table)

    @property
    def was_run(self) -> bool:
        """Whether any row of it has a result."""
        return any(row.runs for row in self.rows)

    @property
    def devices(self) -> list[str]:
        """Models of what the runs ran on."""
        return sorted({record.device.name for row in self.rows for record in row.runs.values()})

    @property
    def judged(self) -> list[Evidence]:
        """The claims that some seed has evidence on."""
        return [item for item in self.claims if item.by_seed]

    def control_of(self, row: RowOutcome) -> RowOutcome | None:
        """The outcome of the row that another one is compared with, if any."""
        return self.by_config.get(row.row.control or "")

    def difference(self, row: RowOutcome, metric: str) -> BySeed | None:
        """A row minus its control, seed by seed, in points; None where there is no control."""
        control = self.control_of(row)
        if control is None:
            return None
        ours, theirs = (_numbers(_of_own_weights(r.runs), metric).by_seed for r in (row, control))
        return BySeed({seed: v - theirs[seed] for seed, v in ours.items() if seed in theirs})


def _numbers(runs: Mapping[int, Record], metric: str) -> BySeed:
    found = {seed: number_of(record, metric) for seed, record in sorted(runs.items())}
    return BySeed({seed: value for seed, value in found.items() if value is not None})


def collect_evidence(
    claims: Sequence[Claim], runs: Mapping[PaperRow, Mapping[int, Record]]
) -> list[Evidence]:
    """Works out the differences, seed by seed.

    A row without training evaluates the weights of another run (test-time augmentation); it is
    compared at the seed of those weights alone.

    Args:
        claims: which.
        runs: (table, row) to seed to the record of the row's run with that seed; all of one
            profile.

    Returns:
        One entry per claim, in order.
    """
    kept = {key: _of_own_weights(by_seed) for key, by_seed in runs.items()}
    profiles = {r.config.profile for by_seed in kept.values() for r in by_seed.values()}
    profile = "tiny" if "tiny" in profiles else min(profiles, default="paper")
    found = []
    for claim in claims:
        rows = dict.fromkeys((term.table, term.row) for term in claim.terms)
        missing = tuple(row for row in rows if not kept.get(row))
        found.append(Evidence(_by_seed(claim, kept), claim, profile, missing))
    return found


def _of_own_weights(by_seed: Mapping[int, Record]) -> dict[int, Record]:
    """Records whose seed is that of their weights."""
    return {
        seed: record
        for seed, record in by_seed.items()
        if record.iterations_planned or record.init_from is None or record.init_from.seed == seed
    }


def _by_seed(claim: Claim, runs: Mapping[PaperRow, Mapping[int, Record]]) -> dict[int, float]:
    terms = [
        (term.sign, _numbers(runs.get((term.table, term.row), {}), term.metric).by_seed)
        for term in claim.terms
    ]
    shared = set.intersection(*(set(values) for _, values in terms))
    return {seed: sum(sign * values[seed] for sign, values in terms) for seed in sorted(shared)}


_RELATIONS = {"nearly equal": "nearly equal", "greater": "better"}


def claims_table(evidence: Sequence[Evidence]) -> Table:
    """Claims, and what the runs show about them."""
    lines: list[list[Cell | str]] = []
    for item in evidence:
        claim = item.claim
        text = claim.text + ("" if claim.stated else " (in the table, not in the text)")
        paper = f"{number(claim.delta, sign=True)}, {_RELATIONS[claim.relation]}"
        numbers = [Cell(paper, kind="number"), Cell(item.with_interval(), kind="number")]
        verdict = Cell(item.verdict, kind=item.verdict)
        seeds, reason = item.seeds or "none", item.reason or "-"
        lines.append([text, metric_title(claim.metric), *numbers, seeds, verdict, reason])
    header = ["claim", "in", "paper", "here [90 %]", "seed", "verdict", "because"]
    return Table(header, lines)
