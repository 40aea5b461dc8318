"""Records as outcomes of rows, by seed: numbers, differences to the control row, claims.

:mod:`mask_rcnn_tools.evidence.verdicts` has the rule by which a claim is confirmed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev

from mask_rcnn_repro.records.curves import Curves
from mask_rcnn_repro.records.record import Record
from mask_rcnn_tools.common.text_tables import Table, TableCell
from mask_rcnn_tools.evidence.claims import Claim
from mask_rcnn_tools.evidence.comparison import number_of
from mask_rcnn_tools.evidence.power import WANTED_POWER, power, smallest_effect
from mask_rcnn_tools.evidence.rows import PaperRow, Row
from mask_rcnn_tools.evidence.titles import best_title, metric_title, number, table_title
from mask_rcnn_tools.evidence.verdicts import (
    FEWEST_SEEDS,
    Interval,
    Judgement,
    Planned,
    Verdict,
    estimates_only,
    interval_of,
    judge,
)


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


Replicates = Mapping[str, Sequence[float]]
"""Metric to its values, in percent, on the same samples of test images for every run."""

ClaimKey = tuple[str, str]
"""Id and metric of a claim."""


@dataclass(frozen=True)
class Evidence(BySeed):
    """The difference that a claim is about, as runs show it.

    Attributes:
        by_seed: the difference for each seed for which all rows were run on the same stages, in
            points.
        claim: the claim.
        profile: scale of the runs.
        missing: table and row of those without any run.
        planned: what was fixed before the runs; None for nothing.
        image_sd: standard deviation of the mean over samples of test images, in points; None if
            it is not known for every run.
        stages: seeds of the RPN stages of the runs.
        left_out: seeds whose runs cannot be compared, and why.
    """

    claim: Claim
    profile: str = "paper"
    missing: tuple[PaperRow, ...] = ()
    planned: Planned | None = None
    image_sd: float | None = None
    stages: tuple[int, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def interval(self) -> Interval | None:
        """The 90 % interval of the mean; None for fewer than two seeds."""
        return interval_of(list(self.by_seed.values()), self.image_sd)

    @property
    def judgement(self) -> Judgement:
        """Whether the runs confirm the claim, by :mod:`mask_rcnn_tools.evidence.verdicts`."""
        return judge(
            self.claim.relation,
            self.by_seed,
            self.planned,
            effect=self.claim.delta,
            margin=self.claim.margin,
            image_sd=self.image_sd,
            stages=self.stages,
            profile=self.profile,
        )

    @property
    def verdict(self) -> Verdict:
        """The verdict of :attr:`judgement`."""
        return self.judgement.verdict

    @property
    def is_estimate(self) -> bool:
        """Whether the plan allows an estimate only."""
        return self.planned is not None and estimates_only(self.claim.delta, self.planned.power)

    @property
    def detectable(self) -> float | None:
        """The smallest difference that the seeds confirm with a chance of 80 %, in points.

        From the scatter seen. None for fewer than two seeds, and for "nearly equal".
        """
        if self.claim.relation == "nearly equal" or not self.deviation or not self.planned:
            return None
        spread = {"image_sd": self.image_sd or 0.0, "margin": self.claim.margin}
        seeds = max(self.planned.seeds, FEWEST_SEEDS)
        return smallest_effect(self.claim.relation, self.deviation, seeds, **spread)

    @property
    def power_text(self) -> str:
        """The power of the planned seeds; of an own claim what they can show."""
        if self.planned is None:
            return "-"
        if self.planned.power is not None:
            return f"{100 * self.planned.power:.0f} %"
        if self.detectable is not None:
            return f"{100 * WANTED_POWER:.0f} % from {number(self.detectable, sign=True)}"
        if not self.deviation:
            return "not known"
        spread = {"image_sd": self.image_sd or 0.0, "margin": self.claim.margin}
        seeds = max(self.planned.seeds, FEWEST_SEEDS)
        reached = power(self.claim.relation, 0.0, self.deviation, seeds, **spread)
        return f"{100 * reached:.0f} % if equal"

    @property
    def reason(self) -> str:
        """Why, in a few words."""
        if self.by_seed:
            why = self.judgement.reason
            if self.claim.is_own and self.planned is None and self.verdict == "interim":
                why = f"run_table.py plans a verdict with --seeds {FEWEST_SEEDS} or more"
        elif self.missing:
            why = "no run of " + ", ".join(f"{row} ({table})" for table, row in self.missing)
        else:
            why = "no seed has all rows and numbers"
        return "; ".join(part for part in (why, *self.left_out) if part)

    @property
    def parts(self) -> str:
        """What the interval is made of: standard errors over seeds and over test images."""
        seeds = (
            "-" if self.deviation is None else f"{self.deviation / len(self.by_seed) ** 0.5:.1f}"
        )
        return f"{seeds}, {number(self.image_sd)}"


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

    @property
    def training_notes(self) -> tuple[str, ...]:
        """Trainings that stopped early, and best checkpoints, seed by seed."""
        notes = []
        for seed, run in sorted(self.runs.items()):
            if run.stopped_early:
                done = f"{run.iterations_done} of {run.iterations_planned} iterations"
                notes.append(f"seed {seed} stopped early after {done}")
            if run.best is not None:
                notes.append(f"best checkpoint of seed {seed}: {best_title(run.best)}")
        return tuple(notes)

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
        by_id: id of a row to outcome, of all that may be controls, of any table.
        note: what has to be known to read it; may be empty.
        seeds: that were asked for, where a command names them.
        swept: keys that an own ablation sweeps, in order.
        heading: of an own ablation; empty for the title of `table`.
        own: whether it is an own ablation.
    """

    table: str
    profile: str
    rows: Sequence[RowOutcome]
    claims: Sequence[Evidence]
    by_id: Mapping[str, RowOutcome]
    note: str = ""
    seeds: tuple[int, ...] = ()
    swept: tuple[str, ...] = ()
    heading: str = ""
    own: bool = False

    @property
    def title(self) -> str:
        """Its heading."""
        return self.heading or table_title(self.table)

    @property
    def was_run(self) -> bool:
        """Whether any row of it has a result."""
        return any(row.runs for row in self.rows)

    @property
    def devices(self) -> list[str]:
        """Models of what the runs ran on."""
        return sorted({record.device.name for row in self.rows for record in row.runs.values()})

    @property
    def versions(self) -> dict[str, list[str]]:
        """Versions of the code that the runs were made with, each with its runs.

        A version is a commit, with "+ changes" if files differed from it, and the versions of
        PyTorch and Detectron2. Runs that do not know their commit are of the version of the
        package.
        """
        found: dict[str, list[str]] = {}
        for row in self.rows:
            for seed, record in sorted(row.runs.items()):
                code, known = record.code, record.versions
                commit = code.commit[:9] if code.commit else f"version {known.mask_rcnn_repro}"
                changes = " + changes" if code.dirty else ""
                name = f"{commit}{changes}, torch {known.torch}, detectron2 {known.detectron2}"
                found.setdefault(name, []).append(f"{row.row.name} seed {seed}")
        return found

    @property
    def version_lines(self) -> list[str]:
        """The versions in words, one a line; empty for a single one."""
        if len(self.versions) < 2:
            return []
        lines = [f"- {name}: {', '.join(runs)}." for name, runs in self.versions.items()]
        return [f"The runs are of {len(lines)} versions of the code:", *lines]

    @property
    def judged(self) -> list[Evidence]:
        """The claims that some seed has evidence on."""
        return [item for item in self.claims if item.by_seed]

    def control_of(self, row: RowOutcome) -> RowOutcome | None:
        """The outcome of the row that another one is compared with, if any."""
        return self.by_id.get(row.row.control or "")

    def difference(self, row: RowOutcome, metric: str) -> BySeed | None:
        """A row minus its control, seed by seed, in points; None where there is no control."""
        if self.control_of(row) is None:
            return None
        pairs, _ = _comparable(self._pairs(row))
        numbers = {s: [number_of(r, metric) for r in pair] for s, pair in pairs.items()}
        known = {s: (a, b) for s, (a, b) in numbers.items() if a is not None and b is not None}
        return BySeed({seed: ours - theirs for seed, (ours, theirs) in known.items()})

    def notes_of(self, row: RowOutcome) -> tuple[str, ...]:
        """What has to be known about a row's numbers and its difference to the control row."""
        return row.notes + row.training_notes + _comparable(self._pairs(row))[1]

    def _pairs(self, row: RowOutcome) -> dict[int, list[Record]]:
        """Seed to the records of a row and its control."""
        control = self.control_of(row)
        ours, theirs = (_of_own_weights(r.runs) if r else {} for r in (row, control))
        return {seed: [ours[seed], theirs[seed]] for seed in sorted(ours.keys() & theirs.keys())}


def _numbers(runs: Mapping[int, Record], metric: str) -> BySeed:
    found = {seed: number_of(record, metric) for seed, record in sorted(runs.items())}
    return BySeed({seed: value for seed, value in found.items() if value is not None})


def collect_evidence(
    claims: Sequence[Claim],
    runs: Mapping[PaperRow, Mapping[int, Record]],
    plan: Mapping[ClaimKey, Planned] | None = None,
    replicates_of: Callable[[Record], Replicates | None] = lambda record: None,
) -> list[Evidence]:
    """Works out the differences, seed by seed.

    A row without training evaluates the weights of another run (test-time augmentation); it is
    compared at the seed of those weights alone. Left out are seeds whose runs stand on stages of
    unlike seeds or on unlike data of the same name (:func:`why_apart`).

    Args:
        claims: which.
        runs: (table, row) to seed to the record of the row's run with that seed; all of one
            profile.
        plan: what was fixed about claims before the runs.
        replicates_of: a record's metrics on samples of test images; None where there are none.

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
        planned = (plan or {}).get((claim.id, claim.metric))
        of_rows = {row: kept.get(row, {}) for row in rows}
        shared = set.intersection(*map(set, of_rows.values()))
        of_seeds, left_out = _comparable({s: [of_rows[r][s] for r in rows] for s in sorted(shared)})
        pairs = {s: dict(zip(rows, records, strict=True)) for s, records in of_seeds.items()}
        by_seed = {s: _difference(claim, records) for s, records in pairs.items()}
        values = {seed: value for seed, value in by_seed.items() if value is not None}
        if planned is not None and set(values) >= (asked := set(range(planned.seeds))):
            values = {seed: value for seed, value in values.items() if seed in asked}
        used = [pairs[seed] for seed in values]
        stages = {r.proposals.seed for rs in used for r in rs.values() if r.proposals is not None}
        image_sd = _image_sd(claim, used, replicates_of)
        seeds = tuple(sorted(stages))
        found.append(Evidence(values, claim, profile, missing, planned, image_sd, seeds, left_out))
    return found


def _comparable(
    runs: Mapping[int, list[Record]],
) -> tuple[dict[int, list[Record]], tuple[str, ...]]:
    """Those of the runs of each seed that can be compared, and why the others cannot."""
    why = {seed: why_apart(records) for seed, records in runs.items()}
    left_out = tuple(f"seed {seed} is left out: {text}" for seed, text in why.items() if text)
    return {seed: records for seed, records in runs.items() if not why[seed]}, left_out


def why_apart(records: Sequence[Record], *, stages: bool = True) -> str:
    """Why runs cannot be compared; empty if they can.

    They cannot if data of one name have unlike fingerprints, or stages of one kind unlike seeds.

    Args:
        records: of the runs.
        stages: look at the seeds of stages, too. A run without training has the weights of its
            own seed (`init_from`), which is no stage.
    """
    for what, key in (("test", "test_data"), ("training", "train_data")):
        known = [data for record in records if (data := getattr(record, key)) is not None]
        if len({(d.name, d.fingerprint) for d in known}) > len({d.name for d in known}):
            return f"the runs' {what} data differ"
    of_each = [
        (r.proposals, r.init_from if r.iterations_planned else None, r.teacher) for r in records
    ]
    for kind in zip(*of_each, strict=True):
        if stages and len({run.seed for run in kind if run is not None}) > 1:
            return "the runs' stages have unlike seeds"
    return ""


def _difference(claim: Claim, records: Mapping[PaperRow, Record]) -> float | None:
    numbers = [(t.sign, number_of(records[t.table, t.row], t.metric)) for t in claim.terms]
    known = [sign * value for sign, value in numbers if value is not None]
    return sum(known) if len(known) == len(numbers) else None


def _image_sd(
    claim: Claim,
    runs: Sequence[Mapping[PaperRow, Record]],
    replicates_of: Callable[[Record], Replicates | None],
) -> float | None:
    """The difference is formed on each sample of images, so that what rows share cancels out."""
    known = {
        record.test_data.fingerprint
        for by_row in runs
        for record in by_row.values()
        if record.test_data is not None
    }
    total: list[float] | None = None
    for by_row in runs:
        for term in claim.terms:
            values = (replicates_of(by_row[term.table, term.row]) or {}).get(term.metric)
            if values is None or len(known) != 1:
                return None
            total = total or [0.0] * len(values)
            total = [t + term.sign * v / len(runs) for t, v in zip(total, values, strict=True)]
    return stdev(total) if total else None


def _of_own_weights(by_seed: Mapping[int, Record]) -> dict[int, Record]:
    """Records whose seed is that of their weights."""
    return {
        seed: record
        for seed, record in by_seed.items()
        if record.iterations_planned or record.init_from is None or record.init_from.seed == seed
    }


_MARGINS = {"nearly equal": "±", "greater": "by more than ", "at least": "less by at most "}
_LAST = ("seed", "planned, power", "verdict", "because")
_RELATIONS = {"nearly equal": "nearly equal", "greater": "better", "at least": "no worse"}


def claims_table(evidence: Sequence[Evidence]) -> Table:
    """Claims, and what the runs show about them."""
    lines: list[list[TableCell | str]] = []
    own = all(item.claim.is_own for item in evidence)
    for item in evidence:
        claim = item.claim
        text = claim.text + ("" if claim.stated else " (in the table, not in the text)")
        size = "" if claim.is_own else f"{number(claim.delta, sign=True)}, "
        paper = f"{size}{_RELATIONS[claim.relation]}"
        paper += f" ({_MARGINS[claim.relation]}{claim.margin:g})" if claim.margin else ""
        differences = [number(value, sign=True) for _, value in sorted(item.by_seed.items())]
        here = [", ".join(differences)] * own + [item.with_interval(), item.parts]
        numbers = [TableCell(text, kind="number") for text in (paper, *here)]
        verdict = TableCell(item.verdict, kind=item.verdict)
        fixed = item.planned
        plan = f"{fixed.seeds}, {item.power_text}" if fixed else "none"
        last = (item.seeds or "none", plan, verdict, item.reason or "-")
        lines.append([text, metric_title(claim.metric), *numbers, *last])
    claimed = "expected" if own else "paper"
    by_seed = ["by seed"] * own
    header = ["claim", "in", claimed, *by_seed, "here [90 %]", "SE: seeds, images", *_LAST]
    return Table(header, lines)
