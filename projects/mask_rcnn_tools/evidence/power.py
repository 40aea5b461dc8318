"""How many seeds a claim needs: the power of the rule of :mod:`mask_rcnn_tools.evidence.verdicts`.

The mean difference of n seeds is normal around the true one, with variance sigma^2 / n + v: sigma
is the scatter over seeds, v the variance over test images. The standard deviation s of the n
differences is sigma * sqrt(chi2 / (n - 1)), independent of the mean. For each s the interval has a
known half width h, so the chance that it confirms the claim is one of the normal distribution. The
power is its mean over s. For v = 0 and "greater" that is the noncentral t distribution; for
"nearly equal" it is the power of two one-sided tests (Phillips, J. Pharmacokinetics 18, 1990).
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import chdtri, ndtr

from mask_rcnn_tools.evidence.verdicts import FEWEST_SEEDS, half_width

WANTED_POWER = 0.8
MOST_SEEDS = 8

_STEPS = 1000  # quantiles of s


def power(
    relation: str,
    effect: float,
    seed_sd: float,
    seeds: int,
    *,
    image_sd: float = 0.0,
    margin: float = 0.0,
) -> float:
    """The chance that runs confirm a claim.

    Args:
        relation: "greater", "nearly equal" or "at least".
        effect: the true difference, in points.
        seed_sd: standard deviation of the difference over seeds, in points; above 0.
        seeds: their number, at least 2.
        image_sd: standard deviation over samples of test images, in points.
        margin: m of the rule.
    """
    quantiles = (np.arange(_STEPS) + 0.5) / _STEPS
    s = seed_sd * np.sqrt(chdtri(seeds - 1, quantiles) / (seeds - 1))
    h = half_width(s, seeds, image_sd)
    spread = math.sqrt(seed_sd**2 / seeds + image_sd**2)
    if relation == "nearly equal":
        inside = ndtr((margin - h - effect) / spread) - ndtr((h - margin - effect) / spread)
        return float(np.maximum(inside, 0.0).mean())
    least = margin if relation == "greater" else -margin
    return float(ndtr((effect - least - h) / spread).mean())


def plan_seeds(
    relation: str,
    effect: float,
    seed_sd: float,
    *,
    image_sd: float = 0.0,
    margin: float = 0.0,
    wanted: float = WANTED_POWER,
    most: int = MOST_SEEDS,
) -> tuple[int, float]:
    """The smallest number of seeds with the wanted power, and the power that it gives.

    Args:
        relation, effect, seed_sd, image_sd, margin: as for :func:`power`.
        wanted: power.
        most: the largest number of seeds; the answer where none has the wanted power.

    Returns:
        The number, from FEWEST_SEEDS on, and its power.
    """
    reached = 0.0
    for seeds in range(FEWEST_SEEDS, most + 1):
        reached = power(relation, effect, seed_sd, seeds, image_sd=image_sd, margin=margin)
        if reached >= wanted:
            return seeds, reached
    return most, reached


def smallest_effect(
    relation: str,
    seed_sd: float,
    seeds: int,
    *,
    image_sd: float = 0.0,
    margin: float = 0.0,
    wanted: float = WANTED_POWER,
) -> float:
    """The smallest difference that a number of seeds confirms with the wanted power, in points.

    Args:
        relation: "greater" or "at least", whose power grows with the difference.
        seed_sd, seeds, image_sd, margin, wanted: as for :func:`plan_seeds`.
    """
    reach = 50 * (seed_sd + image_sd)
    low, high = -margin - reach, margin + reach
    for _ in range(60):
        middle = (low + high) / 2
        reached = power(relation, middle, seed_sd, seeds, image_sd=image_sd, margin=margin)
        low, high = (low, middle) if reached >= wanted else (middle, high)
    return high
