"""Finds the paper's tables and their rows by the names that users type."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_tools.evidence.rows import Row, all_rows

_NOT_TRAINED = "model_zoo"  # published models, which are evaluated alone


def runnable_rows() -> list[Row]:
    """Returns the rows that this command can run."""
    return [row for row in all_rows() if row.table != _NOT_TRAINED]


def _listed(tables: Iterable[str]) -> str:
    """Returns names as they are typed on the command line, such as `class-agnostic`."""
    return ", ".join(dict.fromkeys(table.removeprefix("text-4.2-") for table in tables))


def find_tables(names: Sequence[str]) -> list[str]:
    """Returns the tables that names stand for, in the order given, each once.

    Args:
        names: Such as `2c`, `table2c`, `section4_2`, `class-agnostic`, `2`, `all`.

    Raises:
        ConfigError: A name is unknown. The message suggests the nearest one.
    """
    aliases = _aliases()
    found: dict[str, None] = {}
    for name in names:
        if _plain(name) not in aliases:
            near = difflib.get_close_matches(_plain(name), aliases, n=1, cutoff=0.5)
            hint = f" Did you mean {_listed(aliases[near[0]])}?" if near else ""
            known = _listed(row.table for row in runnable_rows())
            raise ConfigError(f"There is no table {name!r}.{hint} Tables with configs: {known}.")
        found.update(dict.fromkeys(aliases[_plain(name)]))
    return list(found)


def _plain(name: str) -> str:
    text = name.strip().lower().rstrip("/").removesuffix(".py").removeprefix("configs/")
    return re.sub(r"[^a-z0-9]", "", text).removeprefix("table").removeprefix("section")


def _aliases() -> dict[str, list[str]]:
    """Maps names without spaces and punctuation to tables."""
    aliases: dict[str, list[str]] = {}

    def add(name: str, table: str) -> None:
        tables = aliases.setdefault(_plain(name), [])
        if table not in tables:
            tables.append(table)

    for row in runnable_rows():
        add(row.table, row.table)
        add(row.config.partition("/")[0], row.table)
        if row.table.startswith("text-"):
            _, section, what = row.table.split("-", 2)
            for name in (section, what, f"{section}-{what}"):
                add(name, row.table)
        elif row.table[:1].isdigit():
            add(row.table[0], row.table)
        if row.printed == row.key:
            add("all", row.table)
    return aliases


def choose_rows(tables: Iterable[str], wanted: Sequence[str] = ()) -> list[Row]:
    """Returns rows of tables, in the order of the paper.

    Args:
        tables: From :func:`find_tables`.
        wanted: Values of `--rows`: names of rows or configs, also separated by commas. Empty
            for all rows.

    Raises:
        ConfigError: A row is unknown. The message suggests the nearest one.
    """
    chosen = list(tables)
    rows = [row for table in chosen for row in runnable_rows() if row.table == table]
    return pick_rows(rows, wanted)


def pick_rows(rows: Sequence[Row], wanted: Sequence[str] = ()) -> list[Row]:
    """Returns the wanted rows, in their order; see :func:`choose_rows`."""
    if not wanted:
        return list(rows)
    by_name: dict[str, list[Row]] = {}
    for row in rows:
        for name in {row.name, row.config, row.config.rpartition("/")[2]}:
            by_name.setdefault(_row_name(name), []).append(row)
    kept: set[Row] = set()
    for text in wanted:
        # the paper's names may hold commas themselves
        whole = _row_name(text) in by_name
        for name in [text] if whole else [part for part in text.split(",") if part.strip()]:
            if _row_name(name) not in by_name:
                near = difflib.get_close_matches(_row_name(name), by_name, n=1, cutoff=0.4)
                hint = f" Did you mean {by_name[near[0]][0].config}?" if near else ""
                known = ", ".join(f"{row.name} ({row.config})" for row in rows)
                raise ConfigError(f"There is no row {name.strip()!r} here.{hint} Rows: {known}.")
            kept.update(by_name[_row_name(name)])
    return [row for row in rows if row in kept]


def _row_name(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower().strip().removesuffix(".py"))
