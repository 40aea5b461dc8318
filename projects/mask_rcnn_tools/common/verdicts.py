"""The rule by which runs with several seeds confirm a claim about a difference, or do not.

A claim is about a difference D between rows, in points. Each seed for which all rows were run gives
one value of D (rows of one seed see the same images in the same order, so they are compared in
pairs). From n of them comes Student's 90 % interval, mean +- t * s / sqrt(n): s their standard
deviation, t the 95 % quantile with n - 1 degrees of freedom, so that either end is wrong with a
chance of 5 % (were the differences normal and the seeds all that varies).

| the claim | confirmed | not confirmed | undecided |
|---|---|---|---|
| D > 0 ("greater") | interval above 0 | interval below 0 | 0 inside |
| D about 0 ("nearly equal") | interval within +-1 point | interval outside | it crosses +-1 |

The first line is the three-way reading of a test (Jones and Tukey, Psychological Methods 5, 2000),
the second is two one-sided tests of equivalence (Schuirmann, J. Pharmacokinetics 15, 1987). One
seed has no spread, so it is never more than undecided.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Literal, NamedTuple

NEARLY = 1.0
"""Points up to which a difference counts as "nearly equal" (the paper calls 0.6 so)."""

Verdict = Literal["confirmed", "not confirmed", "undecided", "not run"]

RULE = f"""\
Verdicts: differences are formed seed by seed; brackets hold Student's 90 % interval of their mean
(either end is wrong in 5 % of cases). A claim that a row is better is *confirmed* if the interval
lies above 0, *not confirmed* if it lies below; that rows are nearly equal, if it lies within
+-{NEARLY:g} point or wholly outside. Everything else is *undecided*, and so is one seed alone,
which has no spread. Judged is the direction, not the size, for these data and this RPN stage (all
seeds share it). No correction is made for the number of claims."""
"""The rule in words, for every output that shows verdicts."""

# 95 % quantiles of Student's t by degrees of freedom, from 1
_T95 = (
    *(6.3138, 2.9200, 2.3534, 2.1318, 2.0150, 1.9432, 1.8946, 1.8595, 1.8331, 1.8125),
    *(1.7959, 1.7823, 1.7709, 1.7613, 1.7531, 1.7459, 1.7396, 1.7341, 1.7291, 1.7247),
    *(1.7207, 1.7171, 1.7139, 1.7109, 1.7081, 1.7056, 1.7033, 1.7011, 1.6991, 1.6973),
)

_SAME = 1e-9  # points; differences closer than this are one number


class Interval(NamedTuple):
    """Lower and upper end of the interval in which a mean difference lies, in points."""

    low: float
    high: float


class Judgement(NamedTuple):
    """A verdict (see the table above), and why in a few words."""

    verdict: Verdict
    reason: str


def t_quantile(degrees: int) -> float:
    """The 95 % quantile of Student's t distribution, right to 0.001.

    Args:
        degrees: of freedom, at least 1.
    """
    if degrees <= len(_T95):
        return _T95[degrees - 1]
    # two terms of the Cornish-Fisher expansion (Abramowitz and Stegun, 26.7.5)
    z = 1.6449
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)


def interval_of(differences: Sequence[float]) -> Interval | None:
    """Student's 90 % interval of the mean of differences; None for fewer than two."""
    count = len(differences)
    if count < 2:
        return None
    mean = fmean(differences)
    half = t_quantile(count - 1) * stdev(differences) / math.sqrt(count)
    return Interval(mean - half, mean + half)


def judge(relation: str, differences: Sequence[float], profile: str = "paper") -> Judgement:
    """Applies the rule.

    Args:
        relation: "greater" or "nearly equal".
        differences: D for each seed, in points; may be empty.
        profile: scale of the runs; nothing is concluded from `tiny`.
    """
    if not differences:
        return Judgement("not run", "")
    if profile == "tiny":
        return Judgement("undecided", "tiny only shows that rows run")
    equal = relation == "nearly equal"
    interval = interval_of(differences)
    if interval is None:
        only = differences[0]
        shown = abs(only) <= NEARLY if equal else only > 0
        sides = "as claimed" if shown else "against the claim"
        return Judgement("undecided", f"{sides}, but one seed has no spread")
    if max(differences) - min(differences) < _SAME:
        return Judgement("undecided", "seeds agree in every digit: no independent runs")
    if equal and interval.low > -NEARLY and interval.high < NEARLY:
        return Judgement("confirmed", f"interval within {NEARLY:g} point")
    if equal and (interval.low > NEARLY or interval.high < -NEARLY):
        return Judgement("not confirmed", f"interval beyond {NEARLY:g} point")
    if equal:
        return Judgement("undecided", f"interval crosses {NEARLY:g} point")
    if interval.low > 0:
        return Judgement("confirmed", "interval above 0")
    if interval.high < 0:
        return Judgement("not confirmed", "interval below 0")
    return Judgement("undecided", "0 is inside the interval")
