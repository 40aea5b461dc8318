"""The paper's claims about differences between rows, and rows in which they can be tested."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mask_rcnn_repro.paper.numbers import load_claims
from mask_rcnn_tools.evidence.rows import Row, all_rows


@dataclass(frozen=True)
class Term:
    """One number of a row, with the sign that it has in a difference."""

    sign: int
    table: str
    row: str
    metric: str  # such as "segm/AP"


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
        stated: whether the paper states it in words, rather than in its tables alone.
    """

    id: str
    text: str
    relation: str
    metric: str
    delta: float
    terms: tuple[Term, ...]
    stated: bool = True

    @property
    def margin(self) -> float:
        """Points within which rows count as nearly equal; 0 for the relation "greater"."""
        return 0.0 if self.relation == "greater" else NEARLY


NEARLY = 0.6
"""The largest difference that the paper's own words call nearly none: class-agnostic masks are
"nearly as effective" at 29.7 against 30.3 (section 4.2)."""


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
    return tuple(claim for entry in load_claims() for claim in _claims_of(entry))


def _claims_of(entry: Mapping[str, Any]) -> list[Claim]:
    if entry["id"] in _COMPOSITE:
        return [_claim(entry, entry["metric"], entry["delta"], _COMPOSITE[entry["id"]])]
    if entry["better"] is None or entry["metric"] == "seconds":
        return []
    metrics = {entry["metric"]: entry["delta"]}
    for name, delta in entry.get("also", {}).items():
        if isinstance(delta, list):  # by class: "rare classes (truck, bus, train), val"
            task, classes = entry["metric"].partition("/")[0], name.partition("(")[2]
            names = classes.partition(")")[0].split(", ")
            metrics.update(zip((f"{task}/AP ({of})" for of in names), delta, strict=True))
        else:
            metrics[name] = delta
    return [
        _claim(entry, metric, delta, _gain(entry["table"], entry["better"], entry["worse"], metric))
        for metric, delta in metrics.items()
    ]


def _claim(entry: Mapping[str, Any], metric: str, delta: float, terms: tuple[Term, ...]) -> Claim:
    words = (entry["id"], entry["claim"], entry["relation"])
    return Claim(*words, metric, delta, terms, entry["stated"])


def claims_of(table: str) -> list[Claim]:
    """Claims that a row of a table takes part in.

    Rows that have a counterpart in the paper are claimed to gain over their control what it gains.
    """
    claims = [c for c in claims_to_test() if any(t.table == table for t in c.terms)]
    for row in all_rows():
        if row.table == table and not row.is_printed and row.difference_of is not None:
            claims += _claims_of_counterpart(row)
    return claims


def _claims_of_counterpart(row: Row) -> list[Claim]:
    assert row.difference_of is not None
    control = next(r for r in all_rows() if r.config == row.control)
    text = f"{row.difference_of[0][1].removeprefix('+ ')} improves (on this network)"
    claims = []
    for metric in (f"{task}/AP" for task in row.tasks):
        terms = (Term(1, *row.key, metric), Term(-1, *control.key, metric))
        delta = row.printed_difference(metric) or 0.0
        claims.append(Claim(row.config, text, "greater", metric, delta, terms, stated=False))
    return claims
