"""Estimates, from existing runs, what the seeds of an own ablation can show."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence

from mask_rcnn_repro.records.record import Record
from mask_rcnn_tools.evidence.claims import Claim
from mask_rcnn_tools.evidence.power import WANTED_POWER, power, smallest_effect
from mask_rcnn_tools.evidence.results import is_complete
from mask_rcnn_tools.evidence.seed_plan import (
    FEWEST_DEGREES,
    PLAN_FILE,
    Scatter,
    SeedPlan,
    measure_scatter,
)
from mask_rcnn_tools.evidence.titles import metric_title, number
from mask_rcnn_tools.evidence.verdicts import FEWEST_SEEDS


def known_scatter(
    metrics: Iterable[str],
    profile: str,
    records: Sequence[Record],
    own: Collection[str],
    fixed: SeedPlan,
) -> dict[str, tuple[Scatter, str]]:
    """Returns how metrics scatter over seeds, and the source of that.

    The ablation's own rows come first, if their seeds are enough. Then comes the plan of the
    paper's claims, then all rows with several seeds.

    Args:
        metrics: Names such as "segm/AP".
        profile: Profile of the runs.
        records: Any records, oldest first.
        own: Hashes of the configs of the ablation's rows.
        fixed: Plan of the paper's claims.
    """
    metrics = list(dict.fromkeys(metrics))
    kept = [r for r in records if r.config.profile == profile and is_complete(r)]
    planned = fixed.profiles.get(profile)
    sources = (
        (_scatter([r for r in kept if r.config.hash in own], metrics), "these rows"),
        (dict(planned.scatter) if planned else {}, PLAN_FILE),
        (_scatter(kept, metrics), f"all rows at {profile}"),
    )
    found: dict[str, tuple[Scatter, str]] = {}
    for metric in metrics:
        for scatter, source in sources:
            if metric in scatter and scatter[metric].degrees >= FEWEST_DEGREES:
                found.setdefault(metric, (scatter[metric], source))
    return found


def _scatter(records: Iterable[Record], metrics: Iterable[str]) -> dict[str, Scatter]:
    """Returns the scatter over seeds of runs of one config on the same data."""
    rows: dict[str, dict[int, Record]] = {}
    for r in records:
        data = [None if d is None else d.fingerprint for d in (r.train_data, r.test_data)]
        overrides = sorted(o for o in r.config.overrides if not o.startswith("train.seed="))
        row = " ".join(map(str, (r.config.id, *overrides, r.iterations_planned, *data)))
        rows.setdefault(row, {})[r.seed] = r
    return measure_scatter(rows, metrics)


def expected_power(claim: Claim, seeds: int, scatter: Mapping[str, tuple[Scatter, str]]) -> str:
    """Returns what a number of seeds can show about an own claim, such as "80 % from +0.7".

    A difference of two rows scatters by sqrt(2) times what one of them does, as in
    :mod:`mask_rcnn_tools.evidence.seed_plan`.
    """
    if seeds < FEWEST_SEEDS:
        return f"no verdict below {FEWEST_SEEDS} seeds"
    if claim.metric not in scatter:
        return "not known"
    of_row, _ = scatter[claim.metric]
    seed_sd = math.sqrt(2) * of_row.seed_sd
    spread = {"image_sd": of_row.image_sd or 0.0, "margin": claim.margin}
    if claim.relation == "nearly equal":
        return f"{100 * power(claim.relation, 0.0, seed_sd, seeds, **spread):.0f} % if equal"
    least = smallest_effect(claim.relation, seed_sd, seeds, **spread)
    return f"{100 * WANTED_POWER:.0f} % from {number(least, sign=True)}"


def power_note(metrics: Iterable[str], scatter: Mapping[str, tuple[Scatter, str]]) -> str:
    """Returns what the estimates are based on, in one sentence per metric."""
    sentences = []
    for metric in dict.fromkeys(metrics):
        title = metric_title(metric)
        if metric not in scatter:
            sentences.append(
                f"The power in {title} is not known: no rows at this profile have enough seeds "
                f"({FEWEST_DEGREES} degrees of freedom) to show how it scatters."
            )
            continue
        of_row, source = scatter[metric]
        sentences.append(
            f"The power is estimated from a scatter of {of_row.seed_sd:.2f} {title} over seeds "
            f"({source}, {of_row.degrees} degrees of freedom)."
        )
    return "\n".join(sentences)
