"""Every config as a row of a table: of one of the paper's, or of a folder of other configs.

Rows are read from the config files without running them. `paper` in a file has these keys:

- `table`, `row`: the row of the paper that the config is.
- `control`: config that the row is compared with.
- `counterpart`: config of the row of the paper that this config is on another network. The paper's
  difference between that row and its own control is set beside ours.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mask_rcnn_repro.config import config_root, list_configs
from mask_rcnn_repro.paper.numbers import TIMING, load_tables, paper_numbers, printed_row
from mask_rcnn_repro.paper.words import FOLDER_TITLES

PaperRow = tuple[str, str]
"""Table and name of a row that the paper prints."""


@dataclass(frozen=True)
class Row:
    """A config as a row of a table.

    Attributes:
        table: id in tables.json, or the folder of a config that is no row of the paper.
        name: the row's name there; the file's for folders.
        config: id below `configs`.
        control: config that it is compared with, if any.
        difference_of: two rows of the paper whose difference is set beside that to `control`, if
            any: this row and its control, or those of the counterpart.
        summary: the file's docstring on one line.
    """

    table: str
    name: str
    config: str
    control: str | None = None
    difference_of: tuple[PaperRow, PaperRow] | None = None
    summary: str = ""

    @property
    def key(self) -> PaperRow:
        """Table and name."""
        return self.table, self.name

    @property
    def numbers(self) -> Mapping[str, Mapping[str, float]]:
        """The paper's numbers by task; empty where it prints none."""
        return paper_numbers(*self.key) if self.is_printed else {}

    @property
    def is_printed(self) -> bool:
        """Whether it is a row of the paper."""
        return self.table in load_tables()

    @property
    def on_test_dev(self) -> bool:
        """Whether its numbers are of COCO's test-dev, whose annotations only the server has."""
        return load_tables().get(self.table, {}).get("split") == "test-dev"

    @property
    def tasks(self) -> list[str]:
        """Tasks in which the paper prints numbers or differences for it."""
        if self.is_printed or self.difference_of is None:
            return list(self.numbers)
        better, worse = (paper_numbers(*key) for key in self.difference_of)
        return [task for task in better if "AP" in better[task] and "AP" in worse.get(task, {})]

    def printed_number(self, metric: str) -> float | None:
        """The paper's number for a metric such as "segm/AP"; None where it prints none."""
        if metric == TIMING and self.is_printed:
            return printed_row(*self.key).get("ms_per_image")
        return _number(self.numbers, metric)

    def printed_difference(self, metric: str) -> float | None:
        """The paper's difference to the control; None where it does not print both numbers."""
        if self.difference_of is None:
            return None
        better, worse = (_number(paper_numbers(*key), metric) for key in self.difference_of)
        return None if better is None or worse is None else better - worse


def _number(numbers: Mapping[str, Mapping[str, float]], metric: str) -> float | None:
    task, _, name = metric.partition("/")
    value = numbers.get(task, {}).get(name)
    return float(value) if isinstance(value, (int, float)) else None


@functools.cache
def all_rows() -> tuple[Row, ...]:
    """All rows: the paper's in its order, then those of folders.

    In a folder, counterparts come first, in the order of their rows in the paper.
    """
    files = {config: _read(config) for config in list_configs()}
    printed = {c: (p["table"], p["row"]) for c, (p, _) in files.items() if "table" in p}
    order = {
        (table, row["row"]): place
        for table, content in load_tables().items()
        for place, row in enumerate(content.get("rows", ()))
    }
    tables, folders = list(load_tables()), list(FOLDER_TITLES)

    def place(row: Row) -> tuple[int, int, int, str]:
        if row.is_printed:
            return 0, tables.index(row.table), order.get(row.key, 0), row.config
        folder = folders.index(row.table) if row.table in folders else len(folders)
        if row.difference_of is None:
            return 1, folder, len(tables), f"{row.table}/{row.config}"
        theirs = row.difference_of[0]
        return 1, folder, tables.index(theirs[0]), f"{order[theirs]:03d}"

    rows = []
    for config, (paper, summary) in files.items():
        folder, _, file = config.partition("/")
        table, name = printed.get(config, (folder, file))
        control = paper.get("control")
        pair = [config, control]
        if counterpart := paper.get("counterpart"):
            pair = [counterpart, files.get(counterpart, ({}, ""))[0].get("control")]
        theirs = [printed[c] for c in pair if c in printed]
        difference = (theirs[0], theirs[1]) if len(theirs) == 2 else None
        rows.append(Row(table, name, config, control, difference, summary))
    return tuple(sorted(rows, key=place))


def _read(config: str) -> tuple[dict[str, str], str]:
    """What a file states in `paper = dict(...)`, and its docstring on one line."""
    tree = _parsed(config)
    summary = " ".join((ast.get_docstring(tree) or "").split())
    for node in tree.body:
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Call)
            and any(isinstance(t, ast.Name) and t.id == "paper" for t in node.targets)
        ):
            values = {str(k.arg): ast.literal_eval(k.value) for k in node.value.keywords}
            return {key: str(value) for key, value in values.items() if value is not None}, summary
    return {}, summary


def parent_of(config: str) -> str | None:
    """The config that another one takes its model from; None for one that assembles blocks."""
    file = config_root() / f"{config}.py"
    for node in _parsed(config).body:
        if isinstance(node, ast.ImportFrom) and any(n.name == "model" for n in node.names):
            folder = file.parents[max(node.level - 1, 0)]
            path = folder.joinpath(*str(node.module).split(".")).relative_to(config_root())
            return path.as_posix() if path.as_posix() in list_configs() else None
    return None


def _parsed(config: str) -> ast.Module:
    return ast.parse(Path(config_root() / f"{config}.py").read_text(encoding="utf-8"))
