"""The paper's claims about differences between rows, and what runs of ours say about them.

:mod:`mask_rcnn_repro.paper.verdicts` has the rule by which a claim is confirmed.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from mask_rcnn_repro.paper.numbers import load_claims
from mask_rcnn_repro.paper.report import compare
from mask_rcnn_repro.paper.verdicts import NEARLY, RULE, Interval, Verdict, interval_of, judge
from mask_rcnn_repro.records.record import Record

__all__ = [
    "NEARLY",
    "RULE",
    "Claim",
    "Evidence",
    "Term",
    "Verdict",
    "claims_to_test",
    "collect_evidence",
    "number_of",
]


@dataclass(frozen=True)
class Term:
    """One number of a row, with the sign that it has in a difference.

    Attributes:
        sign: +1 or -1.
        table: id in tables.json.
        row: name of the row there.
        metric: such as "segm/AP".
    """

    sign: int
    table: str
    row: str
    metric: str


@dataclass(frozen=True)
class Claim:
    """A difference that the paper states or shows.

    Attributes:
        id: in claims.json.
        text: what is claimed.
        relation: "greater", "nearly equal" or "at least".
        metric: that the difference is in.
        delta: the paper's difference, in points.
        terms: whose sum the difference is.
        stated: False where the paper shows, but does not say it.
    """

    id: str
    text: str
    relation: str
    metric: str
    delta: float
    terms: tuple[Term, ...]
    stated: bool = True


def _gain(table: str, better: str, worse: str, metric: str, sign: int = 1) -> tuple[Term, ...]:
    return (Term(sign, table, better, metric), Term(-sign, table, worse, metric))


_C4 = ("2c", "RoIAlign ave", "RoIPool max")
_C5 = ("2d", "RoIAlign", "RoIPool")

# What claims.json describes in words: differences of differences.
_COMPOSITE: Mapping[str, tuple[Term, ...]] = {
    "c5-over-c4-with-align": (
        Term(1, "2d", "RoIAlign", "segm/AP"),
        Term(-1, "2c", "RoIAlign ave", "segm/AP"),
    ),
    "shared-features": (
        Term(1, "timing", "R101-FPN inference, shared features", "segm/AP"),
        Term(-1, "2a", "R101-FPN", "segm/AP"),
    ),
    "gain-grows-with-stride": (*_gain(*_C5, "segm/AP"), *_gain(*_C4, "segm/AP", -1)),
    "gain-at-strict-iou": (*_gain(*_C4, "segm/AP75"), *_gain(*_C4, "segm/AP50", -1)),
    "gain-masks-over-boxes": (*_gain(*_C5, "segm/AP"), *_gain(*_C5, "bbox/AP", -1)),
}

_RELATIONS = {"c5-over-c4-with-align": "at least"}
"""Claims that say less than "greater": "as good as or better"."""


@functools.cache
def claims_to_test() -> tuple[Claim, ...]:
    """The claims that rows of this project can test, each metric of a claim on its own.

    Claims about seconds are left out; benchmarks test them.
    """
    claims: list[Claim] = []
    for entry in load_claims():
        claims += _claims_of(entry)
    return tuple(claims)


def _claims_of(entry: Mapping[str, Any]) -> list[Claim]:
    if entry["id"] in _COMPOSITE:
        return [_claim(entry, entry["metric"], entry["delta"], _COMPOSITE[entry["id"]])]
    if entry["better"] is None or entry["metric"] == "seconds":
        return []
    metrics = {entry["metric"]: entry["delta"], **entry.get("also", {})}
    return [
        _claim(entry, metric, delta, _gain(entry["table"], entry["better"], entry["worse"], metric))
        for metric, delta in metrics.items()
        if isinstance(delta, (int, float)) and "/" in metric
    ]


def _claim(entry: Mapping[str, Any], metric: str, delta: float, terms: tuple[Term, ...]) -> Claim:
    relation = _RELATIONS.get(entry["id"], entry["relation"])
    return Claim(entry["id"], entry["claim"], relation, metric, delta, terms, entry["stated"])


@dataclass(frozen=True)
class Evidence:
    """What runs say about a claim.

    Attributes:
        claim: the claim.
        by_seed: the difference for each seed for which all rows were run, in points.
        profile: scale of the runs.
        missing: table and row of those without any run.
    """

    claim: Claim
    by_seed: Mapping[int, float]
    profile: str = "paper"
    missing: tuple[tuple[str, str], ...] = ()

    @property
    def mean(self) -> float | None:
        """Mean over the seeds; None if nothing was run."""
        return fmean(self.by_seed.values()) if self.by_seed else None

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds, in points; None for fewer than two."""
        return stdev(self.by_seed.values()) if len(self.by_seed) > 1 else None

    @property
    def interval(self) -> Interval | None:
        """Student's 90 % interval of the mean; None for fewer than two seeds."""
        return interval_of(list(self.by_seed.values()))

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


def collect_evidence(
    claims: Sequence[Claim], runs: Mapping[tuple[str, str], Mapping[int, Record]]
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
    return [
        Evidence(claim, _by_seed(claim, kept), profile, _missing(claim, kept)) for claim in claims
    ]


def _of_own_weights(by_seed: Mapping[int, Record]) -> dict[int, Record]:
    """Records whose seed is that of their weights."""
    return {
        seed: record
        for seed, record in by_seed.items()
        if record.iterations_planned or record.init_from is None or record.init_from.seed == seed
    }


def _missing(
    claim: Claim, runs: Mapping[tuple[str, str], Mapping[int, Record]]
) -> tuple[tuple[str, str], ...]:
    rows = dict.fromkeys((term.table, term.row) for term in claim.terms)
    return tuple(row for row in rows if not runs.get(row))


def _by_seed(
    claim: Claim, runs: Mapping[tuple[str, str], Mapping[int, Record]]
) -> dict[int, float]:
    seeds = [set(runs.get((term.table, term.row), {})) for term in claim.terms]
    differences = {}
    for seed in sorted(set.intersection(*seeds)):
        values = [number_of(runs[term.table, term.row][seed], term.metric) for term in claim.terms]
        known = [v for v in values if v is not None]
        if len(known) == len(values):
            differences[seed] = sum(
                term.sign * value for term, value in zip(claim.terms, known, strict=True)
            )
    return differences


def number_of(record: Record, metric: str) -> float | None:
    """A record's number, in percent, such as "segm/AP"; None where it has none."""
    task, _, name = metric.partition("/")
    return compare(record, {task: {name: 0.0}})[0].ours
