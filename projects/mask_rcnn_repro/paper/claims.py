"""The paper's claims about differences between rows, and what runs of ours say about them."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

from mask_rcnn_repro.evaluation.records import Record
from mask_rcnn_repro.paper.numbers import load_claims
from mask_rcnn_repro.paper.report import compare

NEARLY = 1.0
"""Points up to which a difference counts as "nearly equal" (the paper calls 0.6 so)."""

Verdict = Literal["as in the paper", "mixed", "not as in the paper", "not run"]


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
        relation: "greater" or "nearly equal".
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
    return Claim(
        entry["id"], entry["claim"], entry["relation"], metric, delta, terms, entry["stated"]
    )


@dataclass(frozen=True)
class Evidence:
    """What runs say about a claim.

    Attributes:
        claim: the claim.
        by_seed: the difference for each seed for which all rows were run, in points.
    """

    claim: Claim
    by_seed: Mapping[int, float]

    @property
    def mean(self) -> float | None:
        """Mean over the seeds; None if nothing was run."""
        return fmean(self.by_seed.values()) if self.by_seed else None

    @property
    def verdict(self) -> Verdict:
        """Whether every seed shows the paper's relation, some do ("mixed"), or none."""
        if not self.by_seed:
            return "not run"
        shown = [self._shows(value) for value in self.by_seed.values()]
        if all(shown):
            return "as in the paper"
        return "mixed" if any(shown) else "not as in the paper"

    def _shows(self, difference: float) -> bool:
        if self.claim.relation == "nearly equal":
            return abs(difference) <= NEARLY
        return difference > 0


def collect_evidence(
    claims: Sequence[Claim], runs: Mapping[tuple[str, str], Mapping[int, Record]]
) -> list[Evidence]:
    """Works out the differences, seed by seed.

    Args:
        claims: which.
        runs: (table, row) to seed to the record of the row's run with that seed.

    Returns:
        One entry per claim, in order.
    """
    return [Evidence(claim, _by_seed(claim, runs)) for claim in claims]


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
