"""`results/plan.json`: the number of seeds of each claim, fixed before its runs.

The scatter comes from baseline rows (controls of other rows) that were run with several seeds. A
claim with k terms is a sum of k numbers, each of which scatters like a baseline. Its standard
deviation over seeds is therefore taken as sqrt(k) times that of a baseline, and that over test
images as sqrt(k / 2) times that of the difference between two runs of a baseline.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from mask_rcnn_repro.records.record import Record, read_json, validated
from mask_rcnn_repro.utils.atomic import atomic_write_text
from mask_rcnn_tools.evidence.claims import Claim
from mask_rcnn_tools.evidence.comparison import number_of
from mask_rcnn_tools.evidence.outcomes import ClaimKey, Replicates
from mask_rcnn_tools.evidence.power import plan_seeds, power
from mask_rcnn_tools.evidence.verdicts import ERROR, FEWEST_SEEDS, Planned, estimates_only

PLAN_FILE = "plan.json"
PLAN_VERSION: Literal[1] = 1

FEWEST_DEGREES = 4
"""Degrees of freedom of the scatter that a claim is planned with, at least."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


class Scatter(_Section):
    """Scatter of one metric of a baseline row."""

    seed_sd: float = Field(gt=0, description="Standard deviation over seeds, pooled, in points.")
    degrees: int = Field(ge=1, description="Its degrees of freedom.")
    image_sd: float | None = Field(
        ge=0,
        description="Standard deviation over samples of test images of the difference between two "
        "runs, in points. null: not known, and taken as 0.",
    )
    runs: dict[str, list[int]] = Field(description="Baseline config to the seeds of its runs.")


class PlannedClaim(_Section):
    """What is fixed about a claim."""

    id: str = Field(min_length=1, description="In claims.json; a config for rows that are not.")
    metric: str = Field(min_length=1, description="Such as `segm/AP`.")
    relation: Literal["greater", "nearly equal"] = Field(description="What is claimed.")
    effect: float = Field(description="The paper's difference, in points.")
    margin: float = Field(ge=0, description="Points within which rows count as nearly equal.")
    seed_sd: float = Field(gt=0, description="Of the difference over seeds, in points.")
    image_sd: float = Field(ge=0, description="Of the difference over test images, in points.")
    seeds: int = Field(ge=FEWEST_SEEDS, description="Planned number: the seeds 0, 1, ...")
    power: float = Field(ge=0, le=1, description="Chance to confirm the paper's difference.")
    seen: int = Field(ge=0, description="Seeds that all rows of the claim had before the plan.")


class ScalePlan(_Section):
    """The plan of one profile."""

    wanted_power: float = Field(gt=0, lt=1, description="Power that a number of seeds is to give.")
    most_seeds: int = Field(ge=FEWEST_SEEDS, description="Number where none gives it.")
    error: float = Field(gt=0, lt=1, description="Chance with which a false claim is confirmed.")
    scatter: dict[str, Scatter] = Field(description="By metric.")
    claims: list[PlannedClaim] = Field(description="See below.")


class SeedPlan(_Section):
    """The file."""

    schema_version: Literal[1] = Field(default=PLAN_VERSION, description="Version of this schema.")
    profiles: dict[str, ScalePlan] = Field(default={}, description="By profile.")

    def planned(self, profile: str) -> dict[ClaimKey, Planned]:
        """Claim to what is fixed at a profile; empty where nothing is."""
        scale = self.profiles.get(profile)
        claims = scale.claims if scale else []
        return {(c.id, c.metric): Planned(c.seeds, c.power) for c in claims}


def load_plan(folder: Path | None) -> SeedPlan:
    """Reads the plan of a folder of committed records; an empty one where there is none.

    Raises:
        RecordError: the file is not JSON or does not follow the schema.
    """
    file = None if folder is None else folder / PLAN_FILE
    if file is None or not file.is_file():
        return SeedPlan()
    content = read_json(file, "plan of seeds")
    return validated(SeedPlan, content, repr(str(file)), PLAN_VERSION, "is no plan of seeds")


def save_plan(plan: SeedPlan, folder: Path) -> Path:
    """Writes the plan atomically, one claim and one metric a line; returns its file."""
    atomic_write_text(folder / PLAN_FILE, _lines(plan.model_dump(mode="json")) + "\n")
    return folder / PLAN_FILE


def _lines(value: Any, depth: int = 0) -> str:
    """JSON with the innermost objects on one line."""
    if depth > 3 or not isinstance(value, (dict, list)) or (depth == 3 and "seeds" in value):
        return json.dumps(value)
    indent, inner = "\n" + " " * (depth + 1), depth + 1
    if isinstance(value, dict):
        items = [f"{json.dumps(k)}: {_lines(v, inner)}" for k, v in value.items()]
    else:
        items = [json.dumps(v) for v in value]
    start, end = "{}" if isinstance(value, dict) else "[]"
    return f"{start}{indent}{f',{indent}'.join(items)}\n{' ' * depth}{end}"


def measure_scatter(
    baselines: Mapping[str, Mapping[int, Record]],
    metrics: Iterable[str],
    replicates_of: Callable[[Record], Replicates | None] = lambda record: None,
) -> dict[str, Scatter]:
    """The scatter of baseline rows, by metric.

    Args:
        baselines: config to seed to record, of one profile.
        metrics: such as "segm/AP".
        replicates_of: a record's metrics on samples of test images.

    Returns:
        Without metrics that no baseline has with two seeds, or that scatter by less than 0.0005.
    """
    found = {}
    for metric in metrics:
        squares, degrees, images = 0.0, 0, []
        runs: dict[str, list[int]] = {}
        for config, by_seed in baselines.items():
            numbers = {s: number_of(record, metric) for s, record in sorted(by_seed.items())}
            known = {s: value for s, value in numbers.items() if value is not None}
            if len(known) < 2:
                continue
            runs[config] = list(known)
            squares += (len(known) - 1) * stdev(known.values()) ** 2
            degrees += len(known) - 1
            samples = [(replicates_of(by_seed[s]) or {}).get(metric) for s in known]
            for one, other in itertools.combinations([s for s in samples if s is not None], 2):
                images.append(stdev(a - b for a, b in zip(one, other, strict=True)))
        seed_sd = round(math.sqrt(squares / degrees), 3) if degrees else 0.0
        if seed_sd > 0:
            image_sd = fmean(images) if images else None
            found[metric] = Scatter(
                seed_sd=seed_sd,
                degrees=degrees,
                image_sd=None if image_sd is None else round(image_sd, 3),
                runs=runs,
            )
    return found


def plan_claims(
    claims: Iterable[tuple[Claim, int]],
    scatter: Mapping[str, Scatter],
    earlier: ScalePlan | None,
    wanted: float,
    most: int,
) -> ScalePlan:
    """Fixes the number of seeds of claims. Those of an earlier plan stay as they are.

    Args:
        claims: claim, and the number of seeds that all its rows have already.
        scatter: as :func:`measure_scatter` gives it. Claims in other metrics are not planned, nor
            are those in metrics with fewer than :data:`FEWEST_DEGREES`.
        earlier: the plan so far.
        wanted: power.
        most: largest number of seeds.
    """
    fixed = {(c.id, c.metric): c for c in earlier.claims} if earlier else {}
    scatter = {m: s for m, s in scatter.items() if s.degrees >= FEWEST_DEGREES}
    for claim, seen in claims:
        if claim.delta is None:  # an own row: nothing is known about its size
            continue
        parts = [scatter.get(term.metric) for term in claim.terms]
        known = [part for part in parts if part is not None]
        if (claim.id, claim.metric) in fixed or len(known) < len(parts):
            continue
        seed_sd = math.sqrt(sum(part.seed_sd**2 for part in known))
        image_sd = math.sqrt(sum((part.image_sd or 0.0) ** 2 for part in known) / 2)
        effect, margin = claim.delta, claim.margin
        spread = {"image_sd": image_sd, "margin": margin}
        seeds, reached = plan_seeds(
            claim.relation, effect, seed_sd, **spread, wanted=wanted, most=most
        )
        if estimates_only(effect, reached):  # an estimate, whatever it costs
            seeds = FEWEST_SEEDS
            reached = power(claim.relation, effect, seed_sd, seeds, **spread)
        content: dict[str, Any] = {"relation": claim.relation, "effect": effect, "margin": margin}
        rounded = {"seed_sd": round(seed_sd, 3), "image_sd": round(image_sd, 3)}
        fixed[claim.id, claim.metric] = PlannedClaim(
            **(content | rounded),
            id=claim.id,
            metric=claim.metric,
            seeds=seeds,
            power=round(reached, 3),
            seen=seen,
        )
    kept = dict(earlier.scatter) if earlier else {}
    return ScalePlan(
        wanted_power=wanted,
        most_seeds=most,
        error=ERROR,
        scatter=kept | {m: s for m, s in scatter.items() if m not in kept},
        claims=list(fixed.values()),
    )
