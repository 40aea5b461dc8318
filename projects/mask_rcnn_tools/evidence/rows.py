"""Every config as a row of a table: of one of the paper's, of a folder, or of an own ablation.

Rows are read from the config files without running them. `paper` in a file has these keys:

- `table`, `row`: the row of the paper that the config is.
- `control`: config that the row is compared with.
- `counterpart`: config of the row of the paper that this config is on another network. The paper's
  difference between that row and its own control is set beside ours.

`ablation` has the keys of :class:`Expectation` and `control`, which counts before that of `paper`.
"""

from __future__ import annotations

import ast
import difflib
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mask_rcnn_repro.config import config_root, list_configs
from mask_rcnn_repro.config.schema import ABOUT_KEYS
from mask_rcnn_repro.config.yaml_io import read_yaml
from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.paper.numbers import TIMING, load_tables, paper_numbers, printed_row
from mask_rcnn_tools.evidence.titles import FOLDER_TITLES

PaperRow = tuple[str, str]
"""Table and name of a row that the paper prints."""


@dataclass(frozen=True)
class Expectation:
    """What is expected of an own row against its control; every field may be left open.

    Attributes:
        metric: such as "segm/AP"; "" for the main one of the model.
        expect: "greater" (by more than `margin`), "equal" (within it) or "at_least" (not less by
            more than it); "" for "greater".
        margin: in points; None for 0 if `expect` is "greater", else
            :data:`~mask_rcnn_tools.evidence.claims.NEARLY`.
    """

    metric: str = ""
    expect: str = ""
    margin: float | None = None


@dataclass(frozen=True)
class Row:
    """A config as a row of a table.

    Attributes:
        table: id in tables.json, or the folder of a config that is no row of the paper, or the
            name of an own ablation.
        name: the row's name there; the file's for folders.
        config: id, as :func:`~mask_rcnn_repro.config.config_id` returns it.
        control: id of the row that it is compared with, if any.
        difference_of: two rows of the paper whose difference is set beside that to `control`, if
            any: this row and its control, or those of the counterpart.
        summary: the file's docstring on one line.
        expectation: what is expected of an own row; None for a row of the paper.
        paper: the row of the paper whose numbers are this one's; None: `key`, if that is one.
        problem: why the row cannot be run; empty if it can.
        file: path of a config that is not below `configs`; else empty.
        overrides: that make the row from the config, such as those of a sweep.
        settings: the keys of a sweep with the row's values.
    """

    table: str
    name: str
    config: str
    control: str | None = None
    difference_of: tuple[PaperRow, PaperRow] | None = None
    summary: str = ""
    expectation: Expectation | None = None
    paper: PaperRow | None = None
    problem: str = ""
    file: str = ""
    overrides: tuple[str, ...] = ()
    settings: tuple[tuple[str, str], ...] = ()

    @property
    def id(self) -> str:
        """What tells it from all other rows: the config's id, with the row's own overrides."""
        return " ".join((self.config, *self.overrides))

    @property
    def source(self) -> str:
        """What loads its config: a path or an id."""
        return self.file or self.config

    @property
    def key(self) -> PaperRow:
        """Table and name."""
        return self.table, self.name

    @property
    def numbers(self) -> Mapping[str, Mapping[str, float]]:
        """The paper's numbers by task; empty where it prints none."""
        return paper_numbers(*self.printed) if self.printed else {}

    @property
    def printed(self) -> PaperRow | None:
        """The row of the paper that it is, if it is one."""
        return self.paper or (self.key if self.table in load_tables() else None)

    @property
    def is_printed(self) -> bool:
        """Whether it is a row of the paper."""
        return self.printed is not None

    @property
    def is_timing(self) -> bool:
        """Whether the paper prints milliseconds for it."""
        return self.printed is not None and self.printed[0] == "timing"

    @property
    def on_test_dev(self) -> bool:
        """Whether its numbers are of COCO's test-dev, whose annotations only the server has."""
        table = self.printed[0] if self.printed else ""
        return load_tables().get(table, {}).get("split") == "test-dev"

    @property
    def tasks(self) -> list[str]:
        """Tasks in which the paper prints numbers or differences for it."""
        if self.is_printed or self.difference_of is None:
            return list(self.numbers)
        better, worse = (paper_numbers(*key) for key in self.difference_of)
        return [task for task in better if "AP" in better[task] and "AP" in worse.get(task, {})]

    def printed_number(self, metric: str) -> float | None:
        """The paper's number for a metric such as "segm/AP"; None where it prints none."""
        if metric == TIMING and self.printed:
            return printed_row(*self.printed).get("ms_per_image")
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
    files = {config: stated_in(config_root() / f"{config}.py") for config in list_configs()}
    printed = {c: f.printed for c, f in files.items() if f.printed}
    of_paper: dict[PaperRow, str] = {}  # of several configs for a row, that of the row's table
    for config in sorted(printed, key=lambda c: (not c.startswith(("table", "section")), c)):
        of_paper.setdefault(printed[config], config)
    order = {
        (table, row["row"]): place
        for table, content in load_tables().items()
        for place, row in enumerate(content.get("rows", ()))
    }
    tables, folders = list(load_tables()), list(FOLDER_TITLES)

    def place(row: Row) -> tuple[int, int, int, str]:
        if row.printed == row.key:
            return 0, tables.index(row.table), order.get(row.key, 0), row.config
        folder = folders.index(row.table) if row.table in folders else len(folders)
        if row.difference_of is None:
            return 1, folder, len(tables), f"{row.table}/{row.config}"
        theirs = row.difference_of[0]
        return 1, folder, tables.index(theirs[0]), f"{order[theirs]:03d}"

    rows = []
    for config, file in files.items():
        folder, _, name = config.partition("/")
        paper = printed.get(config)
        if paper and of_paper[paper] == config:
            folder, name = paper
        pair = [config, file.control]
        if counterpart := file.paper.get("counterpart"):
            pair = [counterpart, files[counterpart].control if counterpart in files else None]
        theirs = [printed[c] for c in pair if c in printed]
        difference = (theirs[0], theirs[1]) if len(set(theirs)) == 2 else None
        expected = None if paper else file.expectation
        known = (file.control, difference, file.summary, expected, paper, file.problem)
        rows.append(Row(folder, name, config, *known))
    return tuple(sorted(rows, key=place))


@dataclass(frozen=True)
class Stated:
    """What a config file states about itself.

    Attributes:
        paper: the section `paper`.
        ablation: the section `ablation`.
        summary: the docstring on one line.
        problem: why the file cannot be used; empty if nothing is known against it.
    """

    paper: Mapping[str, Any]
    ablation: Mapping[str, Any]
    summary: str = ""
    problem: str = ""

    @property
    def printed(self) -> PaperRow | None:
        """The row of the paper that it says it is, if the paper has that row."""
        if self.problem or "table" not in self.paper:
            return None
        return str(self.paper["table"]), str(self.paper.get("row"))

    @property
    def control(self) -> str | None:
        """The config that it is compared with."""
        return self.ablation.get("control") or self.paper.get("control")

    @property
    def expectation(self) -> Expectation:
        """What is expected of it against its control."""
        names = ("metric", "expect", "margin")
        return Expectation(**{k: self.ablation[k] for k in names if k in self.ablation})


def stated_in(file: Path) -> Stated:
    """Reads what a config, `.py` or saved `.yaml`, states about itself, without running it.

    Faults of the file are no errors here, because a command about other rows reads it, too.
    """
    try:
        if file.suffix == ".py":
            tree = ast.parse(file.read_text(encoding="utf-8"))
            sections = {name: _section(tree, name) for name in ("paper", "ablation")}
        else:
            tree, saved = ast.Module([], []), dict(read_yaml(file) or {})
            sections = {name: dict(saved.get(name) or {}) for name in ("paper", "ablation")}
    except (OSError, SyntaxError, TypeError, ValueError, ConfigError) as error:
        return Stated({}, {}, problem=f"{file} cannot be read: {error}.")
    problems = []
    if "table" in sections["paper"]:
        paper = sections["paper"]
        try:
            printed_row(str(paper["table"]), str(paper.get("row")))
        except ConfigError as error:
            problems.append(
                f"{file}: paper = dict(table={paper['table']!r}, row={paper.get('row')!r}): "
                f"{error} For an ablation of your own write ablation = dict(control=...)."
            )
    for key in sections["ablation"]:
        if key in ABOUT_KEYS["ablation"]:
            continue
        near = difflib.get_close_matches(key, ABOUT_KEYS["ablation"], n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        known = ", ".join(ABOUT_KEYS["ablation"])
        problems.append(f"{file}: ablation has no key {key!r}.{hint} Its keys: {known}.")
    summary = " ".join((ast.get_docstring(tree) or "").split())
    return Stated(sections["paper"], sections["ablation"], summary, " ".join(problems))


def _section(tree: ast.Module, name: str) -> dict[str, Any]:
    """The values of `name = dict(...)`, without nulls; empty where there is no such statement."""
    found: dict[str, Any] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(
            isinstance(t, ast.Name) and t.id == name for t in node.targets
        ):
            if isinstance(node.value, ast.Call):
                found = {str(k.arg): ast.literal_eval(k.value) for k in node.value.keywords}
            else:
                found = dict(ast.literal_eval(node.value))
    return {key: value for key, value in found.items() if value is not None}


def parent_of(config: str) -> str | None:
    """The config that another one takes its model from; None for one that assembles blocks."""
    if config not in list_configs():
        return None
    file = config_root() / f"{config}.py"
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and any(n.name == "model" for n in node.names):
            folder = file.parents[max(node.level - 1, 0)]
            path = folder.joinpath(*str(node.module).split(".")).relative_to(config_root())
            return path.as_posix() if path.as_posix() in list_configs() else None
    return None
