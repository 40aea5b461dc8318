"""The table at the end of a command: as text, Markdown and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

from mask_rcnn_repro.paper.claims import Evidence
from mask_rcnn_repro.paper.results import task_title
from mask_rcnn_repro.paper.verdicts import RULE
from mask_rcnn_tools.tables.findings import Cell, RowOutcome, TableOutcome
from mask_rcnn_tools.tables.rows import on_test_dev, table_title

_SCALES = {
    "paper": "",
    "mini": "Embedded data and narrow networks: only differences compare with the paper's.",
    "tiny": "`tiny` only shows that rows run: its numbers mean nothing.",
}

_TITLES = {
    "timing/ms": "ms an image",
    "segm": "mask AP75 - AP50",  # of a claim about a difference of differences
    "AP": "mask - box AP",
}

_RELATIONS = {"nearly equal": "nearly equal", "at least": "as good or better", "greater": "better"}


def format_outcome(outcome: TableOutcome, markdown: bool = False) -> str:
    """A table with its claims, and the rule of their verdicts.

    Args:
        outcome: what the records say.
        markdown: instead of text for a terminal.
    """
    style = "github" if markdown else "simple"
    title = table_title(outcome.table)
    seeds = ", ".join(map(str, outcome.seeds))
    plural = "s" if len(outcome.seeds) > 1 else ""
    facts = [f"Profile {outcome.profile}, seed{plural} {seeds}"]
    facts += [f"on {', '.join(outcome.devices)}"] if outcome.devices else []
    parts = [f"{'## ' if markdown else ''}{title}", ", ".join(facts) + "."]
    if _SCALES[outcome.profile]:
        parts[-1] += " " + _SCALES[outcome.profile]
    parts.append(_table(_HEADER, _row_lines(outcome), style))
    notes = [f"{row.row.row}: {note}." for row in outcome.rows for note in row.notes]
    if notes:
        parts.append("\n".join(f"- {note}" for note in notes))
    judged = [e for e in outcome.claims if e.by_seed]
    if judged:
        parts.append(_table(_CLAIM_HEADER, [_claim_line(e) for e in judged], style))
    missing = {f"- {e.claim.text}: {e.reason}" for e in outcome.claims if not e.by_seed}
    if missing:
        parts.append("Claims not run:\n" + "\n".join(sorted(missing)))
    if judged:
        parts.append(RULE)
    elif outcome.claims:
        parts.append("No claim can be judged yet.")
    elif any(on_test_dev(row.row) for row in outcome.rows):
        parts.append("The paper claims nothing about this table alone.")
    return "\n\n".join(parts) + "\n"


_HEADER = ["row", "in", "paper", "here", "seed", "to control: paper", "here [90 %]"]
_WIDEST = 38  # characters of a column on a terminal
_CLAIM_HEADER = ["claim", "in", "paper", "here [90 %]", "seed", "verdict"]


def _table(header: Sequence[str], lines: Sequence[Sequence[str]], style: str) -> str:
    if style == "github":
        lines = [[cell.replace("|", "\\|") for cell in line] for line in lines]
        return tabulate(lines, headers=header, tablefmt=style, disable_numparse=True)
    widths = [_WIDEST] * len(header)
    return tabulate(
        lines, headers=header, tablefmt=style, disable_numparse=True, maxcolwidths=widths
    )


def _row_lines(outcome: TableOutcome) -> list[list[str]]:
    lines = []
    for row in outcome.rows:
        first = True
        for cell in row.cells or (Cell("", None, {}),):
            lines.append(_row_line(row, cell, first))
            first = False
    return lines


def _row_line(row: RowOutcome, cell: Cell, first: bool) -> list[str]:
    missing = f" ({row.status})" if row.status and cell.by_seed else ""
    ours = _spread(cell) + missing if cell.by_seed else (row.status or "-")
    theirs = "" if row.row.control is None else _signed(cell.paper_difference)
    difference = ""
    if cell.difference is not None:
        difference = _interval(cell.difference) if cell.difference.by_seed else "-"
    elif row.row.control is None:
        difference = "(control)"
    return [
        row.row.row if first else "",
        metric_title(cell.metric),
        "-" if cell.paper is None else f"{cell.paper:g}",
        ours,
        ", ".join(map(str, sorted(cell.by_seed))) or "-",
        theirs,
        difference,
    ]


def metric_title(metric: str) -> str:
    """A metric in words: `segm/AP75` is mask AP75."""
    if metric in _TITLES:
        return _TITLES[metric]
    task, _, name = metric.partition("/")
    return f"{task_title(task)} {name}" if name else task


def _spread(cell: Cell) -> str:
    if cell.mean is None:
        return "-"
    return f"{cell.mean:.1f}" + ("" if cell.spread is None else f" ± {cell.spread:.1f}")


def _interval(evidence: Evidence) -> str:
    if evidence.mean is None:
        return "-"
    if evidence.interval is None:
        return f"{evidence.mean:+.1f}"
    return f"{evidence.mean:+.1f} [{evidence.interval.low:+.1f}, {evidence.interval.high:+.1f}]"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.1f}"


def _claim_line(evidence: Evidence) -> list[str]:
    claim = evidence.claim
    reason = f" ({evidence.reason})" if evidence.reason else ""
    return [
        claim.text + ("" if claim.stated else " (seen, not said)"),
        metric_title(claim.metric),
        f"{claim.delta:+.1f}, {_RELATIONS[claim.relation]}",
        _interval(evidence),
        ", ".join(map(str, evidence.by_seed)) or "-",
        f"{evidence.verdict}{reason}",
    ]


def as_json(outcome: TableOutcome) -> dict[str, Any]:
    """The same for programs; numbers as they are, not rounded."""
    return {
        "table": outcome.table,
        "profile": outcome.profile,
        "seeds": list(outcome.seeds),
        "devices": list(outcome.devices),
        "rule": " ".join(RULE.split()),
        "rows": [
            {
                "row": row.row.row,
                "config": row.row.config,
                "control": row.row.control,
                "status": row.status or "complete",
                "notes": list(row.notes),
                "numbers": [_cell_json(cell) for cell in row.cells],
            }
            for row in outcome.rows
        ],
        "claims": [
            {
                "id": e.claim.id,
                "claim": e.claim.text,
                "metric": e.claim.metric,
                "relation": e.claim.relation,
                "paper": e.claim.delta,
                "by_seed": {str(s): v for s, v in e.by_seed.items()},
                "mean": e.mean,
                "interval": list(e.interval) if e.interval else None,
                "verdict": e.verdict,
                "reason": e.reason,
            }
            for e in outcome.claims
        ],
    }


def _cell_json(cell: Cell) -> dict[str, Any]:
    difference = cell.difference
    return {
        "metric": cell.metric,
        "paper": cell.paper,
        "by_seed": {str(s): v for s, v in cell.by_seed.items()},
        "mean": cell.mean,
        "spread": cell.spread,
        "paper_difference": cell.paper_difference,
        "difference": difference.mean if difference else None,
        "interval": list(difference.interval) if difference and difference.interval else None,
    }
