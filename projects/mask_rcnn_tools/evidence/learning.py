"""Learning curves of several seeds as one, and as a line of characters."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from statistics import fmean

from mask_rcnn_repro.records.curves import Point

_BARS = "▁▂▃▄▅▆▇█"


def mean_curve(runs: Sequence[Sequence[Point]]) -> list[Point]:
    """The mean of curves at the iterations that all of them have.

    Args:
        runs: pairs of iterations and value.
    """
    tables = [dict(run) for run in runs]
    shared = sorted(set.intersection(*(set(t) for t in tables))) if tables else []
    return [(x, fmean(t[x] for t in tables)) for x in shared]


def bars(values: Sequence[float], low: float, high: float, width: int = 32) -> str:
    """A curve as characters of eight heights, each the mean of a stretch; empty for no values.

    Args:
        values: of the curve, at even distances.
        low, high: values of the lowest and the highest character.
        width: number of characters at most.
    """
    count = min(width, len(values))
    if not count:
        return ""
    edges = [round(i * len(values) / count) for i in range(count + 1)]
    means = [fmean(values[a:b]) for a, b in itertools.pairwise(edges)]
    span = high - low
    places = [0.0 if span <= 0 else (m - low) / span for m in means]
    return "".join(_BARS[min(int(max(p, 0.0) * len(_BARS)), len(_BARS) - 1)] for p in places)
