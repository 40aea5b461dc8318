"""Formats the tables at the end of a command as text, Markdown, JSON and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from mask_rcnn_repro.paper.numbers import TIMING
from mask_rcnn_tools.common.text_tables import Table
from mask_rcnn_tools.evidence.groups import short_keys
from mask_rcnn_tools.evidence.learning import bars, mean_curve
from mask_rcnn_tools.evidence.outcomes import (
    BySeed,
    Evidence,
    RowOutcome,
    TableOutcome,
    claims_table,
)
from mask_rcnn_tools.evidence.titles import metric_title, number
from mask_rcnn_tools.evidence.verdicts import OWN_RULE, RULE

_SCALES = {
    "mini": " Embedded data and narrow networks: only differences compare with the paper's.",
    "tiny": " `tiny` only shows that rows run: its numbers mean nothing.",
}

_WIDEST = 38  # characters of a column on a terminal


def format_outcome(outcome: TableOutcome, all_metrics: bool = False, markdown: bool = False) -> str:
    """Formats a table with its claims, and the rule of their verdicts.

    Args:
        outcome: Outcome of the table.
        all_metrics: Whether to include AP50, AP75 and so on.
        markdown: Whether to write Markdown instead of text for a terminal.
    """

    def written(table: Table) -> str:
        return table.markdown().rstrip() if markdown else table.text(widest=_WIDEST)

    seeds = f"seed{'s' if len(outcome.seeds) > 1 else ''} {', '.join(map(str, outcome.seeds))}"
    facts = [f"Profile {outcome.profile}", seeds]
    facts += [f"on {', '.join(outcome.devices)}"] if outcome.devices else []
    parts = [
        f"{'## ' if markdown else ''}{outcome.title}",
        f"{', '.join(facts)}.{_SCALES.get(outcome.profile, '')}",
        written(_rows_table(outcome, all_metrics)),
        "\n".join(
            f"- {row.row.name}: {note}." for row in outcome.rows for note in outcome.notes_of(row)
        ),
    ]
    if outcome.judged:
        parts.append(written(claims_table(outcome.judged)))
    parts += [outcome.note, "\n".join(outcome.version_lines)]
    missing = {f"- {e.claim.text}: {e.reason}" for e in outcome.claims if not e.by_seed}
    if missing:
        parts.append("Claims not run:\n" + "\n".join(sorted(missing)))
    if outcome.judged:
        parts.append(OWN_RULE if outcome.own else RULE)
    elif outcome.own and not outcome.claims:
        parts.append("No row names a control: no difference is judged. Give --control CONFIG.")
    elif outcome.claims:
        parts.append("No claim can be judged yet.")
    elif any(row.row.on_test_dev for row in outcome.rows):
        parts.append("The paper claims nothing about this table alone.")
    return "\n\n".join(part for part in parts if part) + "\n"


def _metrics(outcome: TableOutcome, row: RowOutcome, all_metrics: bool) -> list[str]:
    """Returns the metrics to show: the paper's, or those measured if there are none."""
    claimed = list(dict.fromkeys(e.claim.metric for e in outcome.claims)) if outcome.own else []
    if outcome.own and row.runs:
        return list(dict.fromkeys([*claimed, *_measured(row, all_metrics)]))
    metrics = [
        f"{task}/{name}"
        for task, values in row.row.numbers.items()
        if task != "cityscapes_test"  # its server's numbers have no counterpart here
        for name, value in values.items()
        if isinstance(value, (int, float)) and (all_metrics or name == "AP")
    ]
    if not metrics and row.runs:
        metrics = _measured(row, all_metrics)
    return metrics + [TIMING] * row.row.is_timing


def _measured(row: RowOutcome, all_metrics: bool) -> list[str]:
    record = next(iter(row.runs.values()))
    main = {f"{task}/{name}": name for task, v in record.metrics.items() for name in v.values()}
    shown = [m for m, name in main.items() if all_metrics or name == "AP" or name[:3] == "AR@"]
    return shown or list(main)  # of an evaluator of one's own


def _rows_table(outcome: TableOutcome, all_metrics: bool) -> Table:
    paper = not outcome.own or any(row.row.is_printed for row in outcome.rows)
    header = ["row", *short_keys(outcome.swept), "in"]
    header += ["paper"] * paper + ["here", "seed"] + ["to control: paper"] * paper
    header += ["here [90 %]" if paper else "to control [90 %]"]
    lines = []
    for row in outcome.rows:
        name = row.row.config.rpartition("/")[2] if outcome.swept else row.row.name
        names = [name, *(value for _, value in row.row.settings)]
        for metric in _metrics(outcome, row, all_metrics) or [""]:
            ours, printed = row.ours(metric), row.row.printed_number(metric)
            missing = f" ({row.missing})" if row.missing else ""
            difference = _difference(outcome, row, metric)
            theirs = number(row.row.printed_difference(metric), True) if row.row.control else ""
            lines.append(
                [
                    *names,
                    metric_title(metric),
                    *["-" if printed is None else f"{printed:g}"] * paper,
                    ours.with_deviation() + missing if ours.by_seed else row.missing or "-",
                    ours.seeds or "-",
                    *[theirs] * paper,
                    difference.with_interval() if difference else _no_control(row),
                ]
            )
            names = [""] * len(names)  # on its first line alone
    return Table(header, lines)


def _no_control(row: RowOutcome) -> str:
    return "" if row.row.control else "(control)"


def _difference(outcome: TableOutcome, row: RowOutcome, metric: str) -> BySeed | None:
    return None if metric == TIMING else outcome.difference(row, metric)


def as_json(outcome: TableOutcome, all_metrics: bool = False) -> dict[str, Any]:
    """Converts tables to plain data for JSON, without rounding."""
    return {
        "table": outcome.table,
        "profile": outcome.profile,
        "seeds": list(outcome.seeds),
        "devices": outcome.devices,
        "rule": " ".join((OWN_RULE if outcome.own else RULE).split()),
        "rows": [
            {
                "row": row.row.name,
                "config": row.row.config,
                "overrides": list(row.row.overrides),
                "settings": dict(row.row.settings),
                "control": row.row.control,
                "status": row.missing or "complete",
                "notes": list(outcome.notes_of(row)),
                "learning": {
                    str(seed): {"total_loss": c.training.get("total_loss", []), **c.evaluations}
                    for seed, c in row.curves.items()
                },
                "numbers": [
                    _metric_json(outcome, row, metric)
                    for metric in _metrics(outcome, row, all_metrics)
                ],
            }
            for row in outcome.rows
        ],
        "claims": [_claim_json(item) for item in outcome.claims],
        "versions": outcome.versions,
    }


def _metric_json(outcome: TableOutcome, row: RowOutcome, metric: str) -> dict[str, Any]:
    ours, difference = row.ours(metric), _difference(outcome, row, metric) or BySeed({})
    return {
        "metric": metric,
        "paper": row.row.printed_number(metric),
        "by_seed": {str(s): v for s, v in ours.by_seed.items()},
        "mean": ours.mean,
        "spread": ours.deviation,
        "paper_difference": row.row.printed_difference(metric),
        "difference": difference.mean,
        "interval": list(difference.interval) if difference.interval else None,
    }


def _claim_json(item: Evidence) -> dict[str, Any]:
    return {
        "id": item.claim.id,
        "claim": item.claim.text,
        "metric": item.claim.metric,
        "relation": item.claim.relation,
        "paper": item.claim.delta,
        "by_seed": {str(s): v for s, v in item.by_seed.items()},
        "mean": item.mean,
        "interval": list(item.interval) if item.interval else None,
        "image_sd": item.image_sd,
        "margin": item.claim.margin,
        "planned": item.planned._asdict() if item.planned else None,
        "detectable": item.detectable,
        "verdict": item.verdict,
        "reason": item.reason,
    }


def as_csv(outcomes: Sequence[TableOutcome]) -> str:
    """Formats all measured numbers as CSV, one per line, for spreadsheets and data frames.

    Columns: table, row, config, overrides, the keys of sweeps, profile, seed, metric, value, that
    of the control with the same seed and the difference (empty where runs do not compare), hash
    of the config, and commit.
    """
    keys = list(dict.fromkeys(key for outcome in outcomes for key in outcome.swept))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    first = ("table", "row", "config", "overrides", *keys, "profile", "seed", "metric")
    writer.writerow([*first, "value", "control", "difference", "hash", "commit"])
    for outcome in outcomes:
        for row in outcome.rows:
            settings = dict(row.row.settings)
            facts = [outcome.table, row.row.name, row.row.config, " ".join(row.row.overrides)]
            facts += [settings.get(key, "") for key in keys]
            for metric in _metrics(outcome, row, True):
                ours, difference = row.ours(metric), _difference(outcome, row, metric)
                by_seed = difference.by_seed if difference else {}
                for seed, value in ours.by_seed.items():
                    record, gain = row.runs[seed], by_seed.get(seed)
                    compared = ["", ""] if gain is None else [repr(value - gain), repr(gain)]
                    last = (repr(value), *compared, record.config.hash, record.code.commit or "")
                    writer.writerow([*facts, outcome.profile, seed, metric, *last])
    return text.getvalue()


def format_learning(outcome: TableOutcome) -> str:
    """Draws learning curves, means over seeds, as lines of characters. Empty without curves.

    It shows the training loss of all rows on one scale, and the judged metrics if there are several
    evaluations.
    """
    metrics = dict.fromkeys(item.claim.metric for item in outcome.claims)
    parts = []
    for name in ("total_loss", *metrics):
        means = {}
        for row in outcome.rows:
            of_seeds = [
                (c.training if name == "total_loss" else c.evaluations).get(name, [])
                for c in row.curves.values()
            ]
            mean = [value for _, value in mean_curve([run for run in of_seeds if run])]
            if len(mean) > 1:
                means[row.row.name] = mean
        if not means:
            continue
        low = min(min(mean) for mean in means.values())
        high = max(max(mean) for mean in means.values())
        lines = [
            [row, bars(mean, low, high), f"{mean[0]:.3g}", f"{mean[-1]:.3g}"]
            for row, mean in means.items()
        ]
        title = "training loss" if name == "total_loss" else metric_title(name)
        parts.append(Table(["row", f"{title}, mean over seeds", "first", "last"], lines).text())
    return "\n\n".join(parts) + "\n" if parts else ""
