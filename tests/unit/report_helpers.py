"""Records and plans that nobody ran: the paper's own numbers, scattered, as if rows gave these."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

from mask_rcnn_repro.records.record import Record, load_record
from mask_rcnn_tools.evidence.claims import claims_to_test, counterpart_claims
from mask_rcnn_tools.evidence.rows import Row, all_rows
from mask_rcnn_tools.evidence.seed_plan import PlannedClaim, ScalePlan, SeedPlan

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = ROOT / "results/earlier/mini_from_random_weights/table2c/roi_align_ave@mini/seed0.json"


def numbers_of(row: Row) -> dict[str, float]:
    """Metric to a row's number in the paper; of a counterpart that of the row it stands for."""
    shown = row.numbers
    if row.difference_of is not None and not row.is_printed:
        theirs = next(r for r in all_rows() if r.key == row.difference_of[0])
        shown = theirs.numbers
    found = {}
    for task, values in shown.items():
        for name, value in values.items():
            if isinstance(value, dict):
                found |= {f"{task}/AP ({of})": float(v) for of, v in value.items()}
            else:
                found[f"{task}/{name}"] = float(value)
    return found


def pretended(
    config: str, seed: int, numbers: dict[str, float], profile: str = "mini", scatter: float = 0.3
) -> Record:
    """A record of a run with these numbers, scattered by seed: equally for equal arguments."""
    content = load_record(TEMPLATE).model_dump()
    identity = zlib.crc32(config.encode())
    content["config"] |= {"id": config, "profile": profile, "hash": f"{identity:016x}"}
    content |= {"seed": seed, "created": f"2026-01-{seed + 1:02d}T00:00:00Z", "metrics": {}}
    content["proposals"] = (content["proposals"] or {}) | {"seed": seed % 2}
    noise = np.random.default_rng([identity, seed])
    for metric, value in numbers.items():
        task, _, name = metric.partition("/")
        kind, _, of = task.partition("_")
        if kind == "cityscapes":
            kind, content["test_data"]["name"] = "segm", "embedded_cityscapes_val"
            of = ""
        found = content["metrics"].setdefault(
            kind, {"AP": 1.0, "AP50": 1.0, "AP75": 1.0, "per_class": {"person": 1.0}}
        )
        value = round(float(value + noise.normal(0, scatter)), 2)
        if of or name.startswith("AP ("):
            found["per_class"][of or name[4:-1]] = value
        else:
            found[name] = value
    return Record.model_validate(content)


def pretended_records(configs: list[str] | None = None, seeds: int = 3, **changes: float):
    """Records of rows with numbers in the paper.

    Args:
        configs: which; None for all.
        seeds: of each.
        changes: what is added to all numbers of rows, by config with `__` for the slash.
    """
    added = {config.replace("__", "/"): value for config, value in changes.items()}
    return [
        pretended(row.config, seed, {m: v + added.get(row.config, 0.0) for m, v in known.items()})
        for row in all_rows()
        if (configs is None or row.config in configs) and (known := numbers_of(row))
        for seed in range(seeds)
    ]


def pretended_plan(seeds: int = 3, weak: tuple[str, ...] = ()) -> SeedPlan:
    """A plan of all claims at `mini`; those named have little power."""
    planned = [
        PlannedClaim(
            id=claim.id,
            metric=claim.metric,
            relation=claim.relation,
            effect=claim.delta,
            margin=claim.margin,
            seed_sd=0.4,
            image_sd=0.0,
            seeds=seeds,
            power=0.2 if claim.id in weak else 0.9,
            seen=0,
        )
        for claim in (*claims_to_test(), *counterpart_claims())
    ]
    scale = ScalePlan(wanted_power=0.8, most_seeds=8, error=0.05, scatter={}, claims=planned)
    return SeedPlan(profiles={"mini": scale})


def records_by_name(config: str, records) -> dict[str, dict[int, Record]]:
    """In place of `records_of`: records belong to rows by the config's name, none is loaded."""
    found: dict[str, dict[int, Record]] = {}
    for record in records:
        if record.config.id == config and record.iterations_done == record.iterations_planned:
            found.setdefault(record.config.profile, {})[record.seed] = record
    return found
