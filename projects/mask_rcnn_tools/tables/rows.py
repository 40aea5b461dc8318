"""The paper's tables and their rows, by any name that a reader would give them.

Rows are read from the config files without running them: `paper = dict(table=..., row=...)`.
"""

from __future__ import annotations

import ast
import difflib
import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mask_rcnn_repro.config import config_root, list_configs
from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.paper import load_tables, paper_numbers

FOLDERS = ("enhanced_r50", "quickstart", "rpn")
"""Folders of configs that are no rows of the paper, but can be run like a table."""

_VARIANTS = "enhanced_r50"
_OF_VARIANTS = ("table8", "table9")

PaperRow = tuple[str, str]
"""Table and row of the paper."""


@dataclass(frozen=True)
class TableRow:
    """A row of a table, and its config.

    Attributes:
        table: id in tables.json, or one of `FOLDERS`.
        row: its name there; the config's own for folders.
        config: id below `configs`.
        control: config that it is compared with, if any.
        numbers_of: row whose numbers the paper prints for it, if any.
        differs_as: two rows whose difference the paper prints for that to `control`, if any: its
            own and the control's, or of a row on another network those of the paper's network.
    """

    table: str
    row: str
    config: str
    control: str | None = None
    numbers_of: PaperRow | None = None
    differs_as: tuple[PaperRow, PaperRow] | None = None

    @property
    def numbers(self) -> dict[str, dict[str, float]]:
        """The paper's numbers, by task; empty where it prints none."""
        return paper_numbers(*self.numbers_of) if self.numbers_of else {}


@functools.cache
def all_rows() -> tuple[TableRow, ...]:
    """All rows that have a config: of the paper in its order, then those of `FOLDERS`."""
    declared = {config: _declared(config) for config in list_configs()}
    printed = {c: (p["table"], p["row"]) for c, p in declared.items() if "table" in p}
    order = {
        (table, row["row"]): place
        for table, content in load_tables().items()
        for place, row in enumerate(content.get("rows", ()))
    }
    rows = []
    for config, key in printed.items():
        control = declared[config].get("control")
        differs = (key, printed[control]) if control in printed else None
        rows.append(TableRow(*key, config, control, key, differs))
    tables = list(load_tables())
    rows.sort(key=lambda r: (tables.index(r.table), order.get((r.table, r.row), 0)))
    for config in list_configs():
        folder, _, name = config.partition("/")
        if folder == _VARIANTS:
            rows.append(_variant(config, name, printed, declared))
        elif folder in FOLDERS:
            rows.append(TableRow(folder, name, config))
    return tuple(rows)


def _variant(
    config: str,
    name: str,
    printed: dict[str, PaperRow],
    declared: dict[str, dict[str, str]],
) -> TableRow:
    """A row of tables 8 or 9 on another network: the paper prints only its kind of difference."""
    original = next((c for f in _OF_VARIANTS if (c := f"{f}/{name}") in printed), None)
    control = declared[original].get("control") if original else None
    differs = (printed[original], printed[control]) if original and control else None
    return TableRow(_VARIANTS, name, config, parent_of(config), None, differs)


def parent_of(config: str) -> str | None:
    """The config that another one takes its model from; None for one that assembles blocks."""
    file = config_root() / f"{config}.py"
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and any(n.name == "model" for n in node.names):
            folder = file.parents[max(node.level - 1, 0)]
            path = folder.joinpath(*str(node.module).split(".")).relative_to(config_root())
            return path.as_posix() if path.as_posix() in list_configs() else None
    return None


def _declared(config: str) -> dict[str, str]:
    """What a file says in `paper = dict(...)`."""
    file = Path(config_root() / f"{config}.py")
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if not (isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)):
            continue
        if any(isinstance(t, ast.Name) and t.id == "paper" for t in node.targets):
            return {
                str(k.arg): str(k.value.value)
                for k in node.value.keywords
                if isinstance(k.value, ast.Constant)
            }
    return {}


def _listed(tables: Iterable[str]) -> str:
    """Names as they are given on the command line, such as `class-agnostic`."""
    return ", ".join(dict.fromkeys(table.removeprefix("text-4.2-") for table in tables))


def find_tables(names: Sequence[str]) -> list[str]:
    """The tables that are meant, in the order given, each once.

    Args:
        names: such as `2c`, `table2c`, `section4_2`, `class-agnostic`, `2`, `all`.

    Raises:
        ConfigError: an unknown one; names the nearest.
    """
    aliases = _aliases()
    found: dict[str, None] = {}
    for name in names:
        if _plain(name) not in aliases:
            near = difflib.get_close_matches(_plain(name), aliases, n=1, cutoff=0.5)
            hint = f" Did you mean {_listed(aliases[near[0]])}?" if near else ""
            known = _listed(row.table for row in all_rows())
            raise ConfigError(f"There is no table {name!r}.{hint} Tables with configs: {known}.")
        found.update(dict.fromkeys(aliases[_plain(name)]))
    return list(found)


def _plain(name: str) -> str:
    text = name.strip().lower().rstrip("/").removesuffix(".py").removeprefix("configs/")
    return re.sub(r"[^a-z0-9]", "", text).removeprefix("table").removeprefix("section")


def _aliases() -> dict[str, list[str]]:
    """Names without spaces and punctuation to the tables that they mean."""
    aliases: dict[str, list[str]] = {}

    def add(name: str, table: str) -> None:
        tables = aliases.setdefault(_plain(name), [])
        if table not in tables:
            tables.append(table)

    for row in all_rows():
        add(row.table, row.table)
        add(row.config.partition("/")[0], row.table)
        if row.table.startswith("text-"):
            _, section, what = row.table.split("-", 2)
            for name in (section, what, f"{section}-{what}"):
                add(name, row.table)
        elif row.table[:1].isdigit():
            add(row.table[0], row.table)
        if row.table not in FOLDERS:
            add("all", row.table)
    return aliases


def choose_rows(tables: Iterable[str], wanted: Sequence[str] = ()) -> list[TableRow]:
    """The rows of tables, in the order of the paper.

    Args:
        tables: as :func:`find_tables` gives them.
        wanted: values of `--rows`: names of rows or configs, alone or separated by commas; empty
            for all.

    Raises:
        ConfigError: an unknown row; names the nearest.
    """
    chosen = list(tables)
    rows = [row for table in chosen for row in all_rows() if row.table == table]
    if not wanted:
        return rows
    by_name: dict[str, list[TableRow]] = {}
    for row in rows:
        for name in {row.row, row.config, row.config.rpartition("/")[2]}:
            by_name.setdefault(_row_name(name), []).append(row)
    kept: set[TableRow] = set()
    for text in wanted:
        # the paper's names may hold commas themselves
        whole = _row_name(text) in by_name
        for name in [text] if whole else [part for part in text.split(",") if part.strip()]:
            if _row_name(name) not in by_name:
                near = difflib.get_close_matches(_row_name(name), by_name, n=1, cutoff=0.4)
                hint = f" Did you mean {by_name[near[0]][0].config}?" if near else ""
                known = ", ".join(f"{row.row} ({row.config})" for row in rows)
                raise ConfigError(f"There is no row {name.strip()!r} here.{hint} Rows: {known}.")
            kept.update(by_name[_row_name(name)])
    return [row for row in rows if row in kept]


def _row_name(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower().strip().removesuffix(".py"))


def table_title(table: str) -> str:
    """Heading of a table, with the split that the paper's numbers are from."""
    content = load_tables().get(table)
    if content is None:
        return table
    facts = [content[key] for key in ("split", "backbone") if key in content]
    number = f"Table {table}: " if table[0].isdigit() else ""
    return f"{number}{content['title']}" + (f" ({'; '.join(facts)})" if facts else "")


def on_test_dev(row: TableRow) -> bool:
    """Whether the paper's number is of COCO's test-dev, whose annotations only its server has."""
    return str(load_tables().get(row.table, {}).get("split", "")) == "test-dev"
