"""The paper's claims about differences between rows, and rows in which they can be tested."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mask_rcnn_repro.paper.numbers import load_claims
from mask_rcnn_tools.evidence.rows import Expectation, Row, all_rows


@dataclass(frozen=True)
class Term:
    """One number of a row, with the sign that it has in a difference."""

    sign: int
    table: str
    row: str
    metric: str  # such as "segm/AP"


@dataclass(frozen=True)
class Claim:
    """A difference that the paper states or shows, or that is expected of an own row.

    Attributes:
        id: in claims.json; of other rows their id.
        text: what is claimed.
        relation: "greater", "nearly equal" or "at least".
        metric: that the difference is in.
        delta: the paper's difference, in points; None for an own row.
        terms: whose sum the difference is.
        stated: whether the paper states it in words, rather than in its tables alone.
        own_margin: the margin, where it is not that of the paper's words.
    """

    id: str
    text: str
    relation: str
    metric: str
    delta: float | None
    terms: tuple[Term, ...]
    stated: bool = True
    own_margin: float | None = None

    @property
    def margin(self) -> float:
        """m of :mod:`~mask_rcnn_tools.evidence.verdicts`, in points."""
        if self.own_margin is not None:
            return self.own_margin
        return 0.0 if self.relation == "greater" else NEARLY

    @property
    def is_own(self) -> bool:
        """Whether it is about an own row, and the paper has no such difference."""
        return self.delta is None


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
    return claims + [c for c in counterpart_claims() if c.terms[0].table == table]


def counterpart_claims() -> list[Claim]:
    """Claims about rows that have a counterpart in the paper, which it does not state itself."""
    return [
        claim
        for row in all_rows()
        if not row.is_printed and row.difference_of is not None
        for claim in _claims_of_counterpart(row)
    ]


RELATIONS = {"greater": "greater", "equal": "nearly equal", "at_least": "at least"}
"""What `ablation.expect` is called as a relation."""


def main_metric(cfg: DictConfig) -> str:
    """The metric of a config's model that its claims are about, unless they name another."""
    for key, metric in (
        ("model.roi_heads.mask_head", "segm/AP"),
        ("model.roi_heads.keypoint_head", "keypoints/AP"),
        ("model.roi_heads", "bbox/AP"),
    ):
        if OmegaConf.select(cfg, key) is not None:
            return metric
    return "proposals/AR@1000"


def own_claim(row: Row, control: Row, cfg: DictConfig) -> Claim:
    """What is expected of an own row against its control.

    Args:
        row: an own row.
        control: the row of its control, in any table.
        cfg: its config.
    """
    stated = row.expectation or Expectation()
    metric = stated.metric or main_metric(cfg)
    relation = RELATIONS[stated.expect or "greater"]
    words = {"greater": "beats", "nearly equal": "equals", "at least": "is no worse than"}
    terms = (Term(1, *row.key, metric), Term(-1, *control.key, metric))
    text = f"{row.name} {words[relation]} {control.name}"
    margin = 0.0 if relation == "greater" else NEARLY
    margin = margin if stated.margin is None else float(stated.margin)
    return Claim(row.id, text, relation, metric, None, terms, own_margin=margin)


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
