"""Fixes the number of seeds of a table's claims from the scatter of baseline runs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from mask_rcnn_repro.engine.dependencies import stage_seed
from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.records.record import Record
from mask_rcnn_tools.common.text_tables import Table
from mask_rcnn_tools.evidence.claims import claims_of
from mask_rcnn_tools.evidence.image_bootstrap import BOOTSTRAP_FILE, KnownReplicates
from mask_rcnn_tools.evidence.outcomes import collect_evidence, why_apart
from mask_rcnn_tools.evidence.power import MOST_SEEDS, WANTED_POWER
from mask_rcnn_tools.evidence.results import loaded_config, records_of, same_run, stages_of
from mask_rcnn_tools.evidence.rows import PaperRow, all_rows
from mask_rcnn_tools.evidence.seed_plan import (
    FEWEST_DEGREES,
    PlannedClaim,
    Scatter,
    SeedPlan,
    load_plan,
    measure_scatter,
    plan_claims,
    save_plan,
)
from mask_rcnn_tools.evidence.titles import metric_title
from mask_rcnn_tools.evidence.verdicts import FEWEST_SEEDS, estimates_only
from mask_rcnn_tools.tables.usable_records import Found, beside

_COMMAND = "tools/run_table.py TABLE --plan-seeds"


def write_seed_plan(
    tables: Sequence[str], profile: str, records: Sequence[Found], results: Path
) -> str:
    """Writes the number of seeds of tables' claims to the plan. Earlier entries stay.

    Args:
        tables: From :func:`~mask_rcnn_tools.tables.choose.find_tables`.
        profile: The scale.
        records: From :func:`~mask_rcnn_tools.tables.usable_records.find_records`.
        results: Directory of collected records and of the plan.

    Returns:
        The planned claims as text.

    Raises:
        ConfigError: Nothing is planned yet, and no metric has enough runs of baselines.
    """
    claims = [claim for table in tables for claim in claims_of(table)]
    claims = list({(c.id, c.metric): c for c in claims}.values())
    known = [found.record for found in records]
    replicates = KnownReplicates(
        f for found in records if (f := beside(found, BOOTSTRAP_FILE)).is_file()
    )
    metrics = dict.fromkeys(term.metric for claim in claims for term in claim.terms)
    scatter = measure_scatter(_baselines(profile, known), metrics, replicates)
    earlier = load_plan(results).profiles.get(profile)
    wanted = {(t.table, t.row) for claim in claims for t in claim.terms}
    lacking = _lacking(metrics, scatter, profile, wanted)
    if earlier is None and not any(s.degrees >= FEWEST_DEGREES for s in scatter.values()):
        raise ConfigError(lacking)
    rows = [row for row in all_rows() if row.key in wanted]
    runs = {row.key: _runs(row.config, profile, known) for row in rows}
    seen = [len(e.by_seed) for e in collect_evidence(claims, runs)]
    pairs = list(zip(claims, seen, strict=True))
    made = plan_claims(pairs, scatter, earlier, WANTED_POWER, MOST_SEEDS)
    plan = load_plan(results)
    file = save_plan(SeedPlan(profiles={**plan.profiles, profile: made}), results)
    fixed = {(c.id, c.metric): c for c in made.claims}
    shown = [fixed[c.id, c.metric] for c in claims if (c.id, c.metric) in fixed]
    missing = [f"{c.id} ({c.metric})" for c in claims if (c.id, c.metric) not in fixed]
    parts = [_table(shown).text(), f"Written to {file}."]
    if missing:
        parts.append(f"Not planned: {', '.join(missing)}. {lacking}")
    return "\n\n".join(parts)


def planned_seeds(
    tables: Iterable[str], profile: str, plan: SeedPlan
) -> dict[PaperRow, tuple[int, ...]]:
    """Returns the planned seeds of the rows of tables.

    A row gets as many seeds as its most demanding claim in these tables needs. A row without a
    planned claim gets the smallest number that allows a verdict.

    Returns:
        The seeds of each row of the tables, and of rows of other tables that claims use.

    Raises:
        ConfigError: None of their claims is planned.
    """
    tables = list(tables)
    planned = plan.planned(profile)
    counts: dict[PaperRow, int] = {}
    for claim in (claim for table in tables for claim in claims_of(table)):
        if (entry := planned.get((claim.id, claim.metric))) is not None:
            for term in claim.terms:
                key = (term.table, term.row)
                counts[key] = max(entry.seeds, counts.get(key, FEWEST_SEEDS))
    if not counts:
        raise ConfigError(
            f"--seeds planned: no claim of {', '.join(tables)} is planned at profile {profile}. "
            f"{_COMMAND} --profile {profile} plans them; or give a number, such as --seeds 3."
        )
    rest = {row.key: FEWEST_SEEDS for row in all_rows() if row.table in tables}
    return {key: tuple(range(count)) for key, count in {**rest, **counts}.items()}


def _baselines(profile: str, records: Sequence[Record]) -> dict[str, dict[int, Record]]:
    """Returns controls with their runs on the data of the newest run. Equal configs count once."""
    controls = dict.fromkeys(row.control for row in all_rows() if row.control is not None)
    found: dict[str, dict[int, Record]] = {}
    for control in controls:
        runs = _runs(control, profile, records)
        now = max(runs.values(), key=lambda r: r.created, default=None)
        runs = {s: r for s, r in runs.items() if now and not why_apart((r, now), stages=False)}
        if len(runs) > 1 and not found.keys() & set(same_run(control)):
            found[control] = runs
    return found


def _runs(config: str, profile: str, records: Iterable[Record]) -> dict[int, Record]:
    """Returns the runs of a config by seed that depend on the stages which their seeds use."""

    def counts(record: Record) -> bool:
        if not records_of(config, [record]):
            return False
        train = loaded_config(config, profile, record.seed).train
        stages = stages_of(config, profile).items()
        return all(getattr(record, key).seed == stage_seed(train, path) for key, path in stages)

    kept = [r for r in records if r.config.profile == profile and counts(r)]
    return records_of(config, kept).get(profile, {})


def _lacking(
    metrics: Iterable[str],
    scatter: Mapping[str, Scatter],
    profile: str,
    wanted: Collection[PaperRow],
) -> str:
    """Describes which runs are missing for metrics whose scatter is not known well enough."""
    rows = sorted(all_rows(), key=lambda row: row.key not in wanted)
    controls = {row.control for row in rows}
    by_command: dict[str, list[str]] = {}
    for metric in metrics:
        degrees = scatter[metric].degrees if metric in scatter else 0
        if degrees >= FEWEST_DEGREES:
            continue
        printed = metric.partition(" (")[0]  # of all classes
        has = (r for r in rows if r.config in controls and r.printed_number(printed) is not None)
        folder, _, name = next((r.config for r in has), "table2c/roi_align_ave").partition("/")
        command = f"{folder} --rows {name} --profile {profile} --seeds {FEWEST_DEGREES + 1}"
        by_command.setdefault(command, []).append(f"{metric_title(metric)} {degrees}")
    lines = [
        f"A plan needs the scatter of baselines at profile {profile} with {FEWEST_DEGREES} degrees "
        "of freedom. n seeds of one baseline give n - 1, and those of several add up. There are:"
    ]
    for command, known in by_command.items():
        lines.append(f"- {', '.join(known)}. Enough are: tools/run_table.py {command}")
    return "\n".join(lines)


def _table(claims: Iterable[PlannedClaim]) -> Table:
    header = ["claim", "in", "effect", "seed SD", "image SD", "seeds", "power", "seen"]
    lines = []
    for c in claims:
        estimate = ", estimate only" * estimates_only(c.effect, c.power)
        power = f"{100 * c.power:.0f} %{estimate}"
        numbers = (f"{c.effect:+.1f}", f"{c.seed_sd:.2f}", f"{c.image_sd:.2f}", str(c.seeds))
        lines.append([c.id, metric_title(c.metric), *numbers, power, str(c.seen)])
    return Table(header, lines)
