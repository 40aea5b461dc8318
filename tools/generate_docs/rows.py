"""The configs as the documentation shows them: as rows of the paper's tables, or in folders."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import Any, NamedTuple

from mask_rcnn_repro.config import config_root, find_config, list_configs
from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.paper import load_tables
from mask_rcnn_repro.paper.results import loaded_config

VARIANTS = "enhanced_r50"
"""Folder of rows of the paper on a smaller network, see :func:`load_variants`."""

_FOLDER_TITLES = {
    VARIANTS: "Tables 8 and 9 on ResNet-50-FPN: their components on a network that one "
    "machine can train",
    "rpn": "RPN stages: proposals for the rows that are trained stage by stage",
    "quickstart": "Quickstart: embedded data, no row of the paper",
    "model_zoo": "Model zoo: Detectron2's published models, for `--eval-only`",
}
"""Titles of folders that hold no rows of the paper, in the order in which they are shown."""


@dataclass(frozen=True)
class Row:
    """A config file as the documentation shows it.

    Attributes:
        id: path below `configs` without suffix.
        summary: the file's docstring on one line.
        table: table of the paper; None for a config that is no row of it.
        name: row of that table.
        control: id of the config that it is compared with, if any.
    """

    id: str
    summary: str
    table: str | None = None
    name: str = ""
    control: str | None = None

    @property
    def group(self) -> str:
        """The table, or the folder of a config that is in none."""
        return self.table or self.id.partition("/")[0]


class Variant(NamedTuple):
    """A row of the paper on another network.

    Attributes:
        config: its id.
        parent: the config that it builds upon, which it is compared with.
        row: id of the paper's row.
        row_parent: id of the row that the paper compares that with.
    """

    config: str
    parent: str
    row: str
    row_parent: str


def load_rows() -> list[Row]:
    """Every runnable config: the paper's tables and their rows in its order, then the folders."""
    rows = []
    for config in list_configs():
        tree = ast.parse(find_config(config_root() / f"{config}.py").read_text(encoding="utf-8"))
        summary = " ".join((ast.get_docstring(tree) or "").split())
        paper = loaded_config(config).get("paper") or {}
        rows.append(
            Row(config, summary, paper.get("table"), paper.get("row", ""), paper.get("control"))
        )
    order = {(t, r["row"]): (i, j) for i, (t, j, r) in enumerate(printed_rows())}
    folders = list(_FOLDER_TITLES)

    def place(row: Row) -> tuple[int, int, str]:
        if (str(row.table), row.name) in order:
            return *order[str(row.table), row.name], row.id
        known = row.group in folders
        return len(order), folders.index(row.group) if known else len(folders), row.id

    return sorted(rows, key=place)


def load_variants() -> list[Variant]:
    """Rows of tables 8 and 9 on a smaller network, in the order of the tables."""
    by_id = {row.id: row for row in load_rows()}
    variants: dict[str, Variant] = {}
    for row in by_id.values():
        config = f"{VARIANTS}/{row.id.partition('/')[2]}"
        if row.group in ("8", "9") and row.control and config in by_id:
            # both tables have an updated baseline and test-time augmentation; here table 8's
            variants.setdefault(config, Variant(config, _parent(config), row.id, row.control))
    return list(variants.values())


def _parent(config: str) -> str:
    """The config that another one takes its model from."""
    file = config_root() / f"{config}.py"
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and any(n.name == "model" for n in node.names):
            folder = file.parents[node.level - 1]
            path = folder.joinpath(*str(node.module).split("."))
            return path.relative_to(config_root()).as_posix()
    raise ConfigError(f"{file} takes its model from no other config.")


def printed_rows() -> list[tuple[str, int, dict[str, Any]]]:
    """The tables' rows in their order: table, number of the row in it, the row."""
    return [
        (table, number, row)
        for table, content in load_tables().items()
        for number, row in enumerate(content.get("rows", ()))
    ]


def group_title(group: str) -> str:
    """Heading of a table of the paper, or of a folder of other configs."""
    if group not in load_tables():
        return _FOLDER_TITLES.get(group, group)
    table = load_tables()[group]
    split = f" ({table['split']})" if "split" in table else ""
    return f"{_table_name(group)}{table['title']}{split}"


def _table_name(table: str) -> str:
    return f"Table {table}: " if table[0].isdigit() else ""
