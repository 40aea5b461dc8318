"""The tables at the end of a command: as text, Markdown and JSON."""

from __future__ import annotations

from typing import Any

from mask_rcnn_repro.paper.numbers import TIMING
from mask_rcnn_repro.paper.tables import Table
from mask_rcnn_repro.paper.words import metric_title, number
from mask_rcnn_tools.evidence.outcomes import (
    BySeed,
    Evidence,
    RowOutcome,
    TableOutcome,
    claims_table,
)
from mask_rcnn_tools.evidence.verdicts import RULE

_SCALES = {
    "mini": " Embedded data and narrow networks: only differences compare with the paper's.",
    "tiny": " `tiny` only shows that rows run: its numbers mean nothing.",
}

_WIDEST = 38  # characters of a column on a terminal


def format_outcome(outcome: TableOutcome, all_metrics: bool = False, markdown: bool = False) -> str:
    """A table with its claims, and the rule of their verdicts.

    Args:
        outcome: of the table.
        all_metrics: AP50, AP75 and the like, too.
        markdown: instead of text for a terminal.
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
    missing = {f"- {e.claim.text}: {e.reason}" for e in outcome.claims if not e.by_seed}
    if missing:
        parts.append("Claims not run:\n" + "\n".join(sorted(missing)))
    if outcome.judged:
        parts.append(RULE)
    elif outcome.claims:
        parts.append("No claim can be judged yet.")
    elif any(row.row.on_test_dev for row in outcome.rows):
        parts.append("The paper claims nothing about this table alone.")
    return "\n\n".join(part for part in parts if part) + "\n"


def _metrics(row: RowOutcome, all_metrics: bool) -> list[str]:
    """The metrics to show: the paper's, or without these what was measured."""
    metrics = [
        f"{task}/{name}"
        for task, values in row.row.numbers.items()
        if task != "cityscapes_test"  # its server's numbers have no counterpart here
        for name, value in values.items()
        if isinstance(value, (int, float)) and (all_metrics or name == "AP")
    ]
    if not metrics and row.runs:
        record = next(iter(row.runs.values()))
        metrics = [
            f"{task}/{name}"
            for task, values in record.metrics.items()
            for name in values.values()
            if all_metrics or name == "AP" or name.startswith("AR@")
        ]
    return metrics + [TIMING] * (row.row.table == "timing")


def _rows_table(outcome: TableOutcome, all_metrics: bool) -> Table:
    header = ["row", "in", "paper", "here", "seed", "to control: paper", "here [90 %]"]
    lines = []
    for row in outcome.rows:
        name = row.row.name
        for metric in _metrics(row, all_metrics) or [""]:
            ours, printed = row.ours(metric), row.row.printed_number(metric)
            missing = f" ({row.missing})" if row.missing else ""
            difference = _difference(outcome, row, metric)
            lines.append(
                [
                    name,
                    metric_title(metric),
                    "-" if printed is None else f"{printed:g}",
                    ours.with_deviation() + missing if ours.by_seed else row.missing or "-",
                    ours.seeds or "-",
                    number(row.row.printed_difference(metric), True) if row.row.control else "",
                    difference.with_interval() if difference else _no_control(row),
                ]
            )
            name = ""  # on its first line alone
    return Table(header, lines)


def _no_control(row: RowOutcome) -> str:
    return "" if row.row.control else "(control)"


def _difference(outcome: TableOutcome, row: RowOutcome, metric: str) -> BySeed | None:
    return None if metric == TIMING else outcome.difference(row, metric)


def as_json(outcome: TableOutcome, all_metrics: bool = False) -> dict[str, Any]:
    """The same for programs; numbers as they are, not rounded."""
    return {
        "table": outcome.table,
        "profile": outcome.profile,
        "seeds": list(outcome.seeds),
        "devices": outcome.devices,
        "rule": " ".join(RULE.split()),
        "rows": [
            {
                "row": row.row.name,
                "config": row.row.config,
                "control": row.row.control,
                "status": row.missing or "complete",
                "notes": list(outcome.notes_of(row)),
                "numbers": [
                    _metric_json(outcome, row, metric) for metric in _metrics(row, all_metrics)
                ],
            }
            for row in outcome.rows
        ],
        "claims": [_claim_json(item) for item in outcome.claims],
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
        "verdict": item.verdict,
        "reason": item.reason,
    }
