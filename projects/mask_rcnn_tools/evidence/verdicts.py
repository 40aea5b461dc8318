"""The rule by which runs with several seeds confirm or contradict a claim about a difference.

A claim is about a difference D between rows, in points. Each seed for which all rows were run gives
one value of D. Rows of one seed see the same images in the same order, so they are compared in
pairs. The interval of the mean of n values is mean +- t * sqrt(s^2 / n + v): s is their standard
deviation, v the variance that the choice of test images gives the mean (an image bootstrap; 0 where
it is not known), t the 95 % quantile of Student's distribution. Its degrees of freedom are n - 1
for v = 0, else those of Welch and Satterthwaite. Either end is wrong in 5 % of cases.

| the claim | confirmed | contradicted | undecided |
|---|---|---|---|
| D > m ("greater") | interval above m | interval below m | m inside |
| abs(D) < m ("nearly equal") | interval within +-m | interval outside | it crosses m or -m |
| D > -m ("at least") | interval above -m | interval below -m | -m inside |

The first line is the three-way reading of a test (Jones and Tukey, Psychological Methods 5, 2000),
the second is two one-sided tests of equivalence (Schuirmann, J. Pharmacokinetics 15, 1987), the
third one of them (non-inferiority). m is the claim's margin, 0 for the paper's "greater".

The number of seeds is fixed before the runs (:class:`Planned`). With fewer, a claim is "interim".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy.special import stdtrit

FEWEST_SEEDS = 3
"""Of a verdict."""

SMALL_EFFECT, LOW_POWER = 1.0, 0.6
"""A claim about less than this many points with less than this power gets no verdict."""

ERROR = 0.05
"""Chance with which each end of an interval is wrong, and so with which a false claim is
confirmed."""

BOOTSTRAP_SAMPLES = 200
"""Samples of test images from which the variance over them is estimated."""

Verdict = Literal[
    "confirmed", "contradicted", "undecided", "estimate only", "interim", "not run"
]  # fmt: skip
VERDICTS: tuple[Verdict, ...] = (
    "confirmed", "contradicted", "undecided", "estimate only", "interim", "not run"
)  # fmt: skip
"""In the order in which they are shown."""

RULE = """\
Verdicts: differences are formed seed by seed. Brackets hold the 90 % interval of their mean, from
the scatter over seeds and, where known, over test images; either end is wrong in 5 % of cases.
A claim that a row is better is *confirmed* if the interval lies above 0, *contradicted* if it lies
below. That rows are nearly equal is *confirmed* if it lies within the margin, *contradicted* if
wholly outside. Everything else is *undecided*. The number of seeds was fixed before the runs
(results/plan.json). With fewer seeds than planned, or fewer than 3, a claim is *interim*. A claim
about less than 1 point is an *estimate only* if the planned seeds would confirm it with a chance
below 60 %. A verdict is about the direction, not the size. docs/statistics.md explains the rule
with an example."""
"""The rule in words, for every output that shows verdicts."""

OWN_RULE = """\
Verdicts: differences to the control are formed seed by seed. Brackets hold the 90 % interval of
their mean, from the scatter over seeds and, where known, over test images; either end is wrong in
5 % of cases. With a margin m, 0 unless stated, a row is better if the interval lies above m, equal
if it lies within ±m, no worse if it lies above -m. Then what was expected is *confirmed*. It is
*contradicted* if the interval lies wholly on the other side, else *undecided*. With fewer than 3
seeds, or fewer than the first such command was given, it is *interim*; only these seeds count.
"80 % from +1.3" means that this number of seeds confirms a true difference of +1.3 with a chance of
80 %, given the scatter seen. docs/statistics.md explains the rule with an example."""
"""The same for an own ablation."""

_SAME = 1e-9  # points; differences closer than this are one number


class Interval(NamedTuple):
    """Lower and upper end of the interval in which a mean difference lies, in points."""

    low: float
    high: float


class Planned(NamedTuple):
    """What was fixed about a claim before its runs.

    Attributes:
        seeds: number of seeds: 0, 1, ... are the planned ones.
        power: chance that they confirm the claim if the paper's difference is true; None where
            the paper has none.
    """

    seeds: int
    power: float | None


class Judgement(NamedTuple):
    """A verdict (see the table above), and why in a few words."""

    verdict: Verdict
    reason: str


def half_width(deviation: Any, count: int, image_sd: float = 0.0) -> Any:
    """Half of the 90 % interval of a mean.

    Args:
        deviation: standard deviation over seeds, in points; a number or an array.
        count: number of seeds, at least 2.
        image_sd: standard deviation of the mean over samples of test images, in points.

    Returns:
        Of the shape of `deviation`.
    """
    seeds = np.maximum(np.asarray(deviation, float), 1e-12) ** 2 / count  # never 0 / 0
    images = image_sd**2
    shares = seeds**2 / (count - 1) + images**2 / (BOOTSTRAP_SAMPLES - 1)
    return stdtrit((seeds + images) ** 2 / shares, 1 - ERROR) * np.sqrt(seeds + images)


def estimates_only(effect: float | None, power: float | None) -> bool:
    """Whether a claim about `effect` points with this power gets no verdict."""
    if effect is None or power is None:
        return False
    return abs(effect) < SMALL_EFFECT and power < LOW_POWER


def interval_of(differences: Sequence[float], image_sd: float | None = None) -> Interval | None:
    """The 90 % interval of the mean of differences; None for fewer than two."""
    if len(differences) < 2:
        return None
    mean = fmean(differences)
    half = float(half_width(stdev(differences), len(differences), image_sd or 0.0))
    return Interval(mean - half, mean + half)


def judge(
    relation: str,
    by_seed: Mapping[int, float],
    planned: Planned | None,
    *,
    effect: float | None,
    margin: float = 0.0,
    image_sd: float | None = None,
    stages: Sequence[int] = (),
    profile: str = "paper",
) -> Judgement:
    """Applies the rule.

    Args:
        relation: "greater", "nearly equal" or "at least".
        by_seed: seed to D in points; may be empty. Only planned seeds count.
        planned: what was fixed before the runs; None for nothing.
        effect: the paper's D; None where it has none.
        margin: m of the table above.
        image_sd: as for :func:`half_width`; None if it is not known.
        stages: seeds of the RPN stages that the runs stand on; empty if they stand on none.
        profile: scale of the runs; nothing is concluded from `tiny`.
    """
    if not by_seed:
        return Judgement("not run", "")
    if profile == "tiny":
        return Judgement("undecided", "tiny only shows that rows run")
    if planned is None:
        return Judgement("interim", "no number of seeds was planned")
    count = max(planned.seeds, FEWEST_SEEDS)
    values = [value for seed, value in by_seed.items() if seed < count]
    if len(values) < count:
        return Judgement("interim", f"{len(values)} of {count} planned seeds")
    if max(values) - min(values) < _SAME:
        return Judgement("undecided", "seeds agree in every digit: no independent runs")
    if len(set(stages)) == 1:
        return Judgement("interim", f"all seeds share RPN stage {stages[0]}")
    if estimates_only(effect, planned.power):
        return Judgement("estimate only", f"power {100 * (planned.power or 0):.0f} %")
    interval = interval_of(values, image_sd)
    assert interval is not None
    return _compared(relation, interval, margin)


def _compared(relation: str, interval: Interval, margin: float) -> Judgement:
    if relation == "nearly equal":
        if -margin < interval.low and interval.high < margin:
            return Judgement("confirmed", f"interval within {margin:g} point")
        if interval.low > margin or interval.high < -margin:
            return Judgement("contradicted", f"interval beyond {margin:g} point")
        return Judgement("undecided", f"interval crosses {margin:g} point")
    least = margin if relation == "greater" else -margin
    if interval.low > least:
        return Judgement("confirmed", f"interval above {least:g}")
    if interval.high < least:
        return Judgement("contradicted", f"interval below {least:g}")
    return Judgement("undecided", f"{least:g} is inside the interval")
