"""Access to ``tables.json`` and ``claims.json``."""

from __future__ import annotations

import difflib
import functools
import json
from importlib.resources import files
from typing import Any

from mask_rcnn_repro.errors import ConfigError

TIMING = "timing/ms"
"""Metric of rows on timing: milliseconds of inference per image."""


@functools.cache
def load_tables() -> dict[str, dict[str, Any]]:
    """Returns the paper's tables: id ("2a") to title, split, rows. Treat it as read-only."""
    return _read("tables.json")["tables"]


@functools.cache
def load_claims() -> list[dict[str, Any]]:
    """Returns the paper's testable differences between rows. Treat it as read-only."""
    return _read("claims.json")["claims"]


def paper_numbers(table: str, row: str) -> dict[str, dict[str, float]]:
    """Returns the metrics that the paper prints for a row.

    Args:
        table: Id in ``tables.json``, such as "2a".
        row: The row's name, such as "R50-C4".

    Returns:
        Task ("segm", "bbox", "keypoints", ...) to metric name to percent; AP by class, where
        printed, under "per_class". Empty for rows without metrics (timing).

    Raises:
        ConfigError: An unknown table or row; names the nearest known one.
    """
    printed = printed_row(table, row)
    return {task: dict(values) for task, values in printed.items() if isinstance(values, dict)}


def printed_row(table: str, row: str) -> dict[str, Any]:
    """Returns all that tables.json has on a row. Treat it as read-only.

    Raises:
        ConfigError: An unknown table or row; names the nearest known one.
    """
    tables = load_tables()
    if str(table) not in tables:
        raise ConfigError(_unknown("table", str(table), list(tables)))
    rows = {r["row"]: r for r in tables[str(table)].get("rows", ())}
    if row not in rows:
        raise ConfigError(_unknown(f"row of table {table}", row, list(rows)))
    return rows[row]


def _unknown(what: str, given: str, known: list[str]) -> str:
    near = difflib.get_close_matches(given, known, n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"The paper has no {what} {given!r}.{hint} Known: {', '.join(known) or 'none'}."


def _read(name: str) -> dict[str, Any]:
    return json.loads(files("mask_rcnn_repro.paper").joinpath(name).read_text(encoding="utf-8"))
