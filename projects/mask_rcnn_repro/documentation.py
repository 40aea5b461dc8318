"""Generated documentation: what would otherwise be typed by hand and drift from the code.

`python -m mask_rcnn_repro.documentation` writes, `--check` only says what is stale:

| file | made from |
|---|---|
| configs/README.md | the configs, their differences, paper/tables.json |
| docs/train_keys.md | the schema of the `train` section |
| docs/records.md | the schema of result records |
| docs/performance.md and its plots | records of benchmarks |
| RESULTS.md and its plots in docs/report/ | records below results/, the paper's tables and claims |
| results/README.md | records below results/ |
| README.md, between its two markers | the configs, paper/tables.json, records below results/ |
"""

from __future__ import annotations

import argparse
import ast
import inspect
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mask_rcnn_repro.config import (
    ABSENT,
    config_root,
    diff_configs,
    find_config,
    format_diff,
    format_schema,
    list_configs,
    to_plain,
)
from mask_rcnn_repro.config.diff import Difference, format_value
from mask_rcnn_repro.engine.atomic import atomic_write_text
from mask_rcnn_repro.errors import ConfigError, UserError
from mask_rcnn_repro.evaluation.record_docs import format_record_schema
from mask_rcnn_repro.evaluation.records import Record
from mask_rcnn_repro.paper import load_tables, paper_numbers
from mask_rcnn_repro.paper.results import (
    format_results_of,
    loaded_config,
    same_run,
    stages_of,
    task_title,
)
from mask_rcnn_repro.performance.page import format_performance_page, performance_plots
from mask_rcnn_repro.performance.record import RECORDS, load_benchmarks
from mask_rcnn_repro.reporting.data import ReportRow
from mask_rcnn_repro.reporting.markdown import PLOTS, format_records_index, format_results_page
from mask_rcnn_repro.reporting.report import Report, build_report
from mask_rcnn_repro.reporting.store import load_material

BEGIN, END = "<!-- generated: tables -->", "<!-- /generated -->"
"""What stands in README.md between these lines is generated."""

_COMMAND = "python -m mask_rcnn_repro.documentation"
_INLINE = 8  # up to so many differences from a control stand in the table, more below it

_VARIANTS = "enhanced_r50"

_FOLDER_TITLES = {
    _VARIANTS: "Tables 8 and 9 on ResNet-50-FPN: their components on a network that one "
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
    order = {(t, r["row"]): (i, j) for i, (t, j, r) in enumerate(_printed_rows())}
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
        config = f"{_VARIANTS}/{row.id.partition('/')[2]}"
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


def _printed_rows() -> list[tuple[str, int, dict[str, Any]]]:
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


def _table_label(group: str) -> str:
    """The first column of README.md's table: a table's number, or the section of a number."""
    if group.startswith("text-"):
        return f"section {group.split('-')[1]}"
    return "section 4.4" if group == "timing" else group


def stated_differences(config: str, control: str) -> list[Difference]:
    """What a config states differently from its control; what follows from it is left out.

    Returns:
        As :func:`diff_configs`, with interpolations as text and without `paper`.
    """
    ours, theirs = (to_plain(loaded_config(c), resolve=False) for c in (config, control))
    return [d for d in diff_configs(theirs, ours) if d[0].partition(".")[0] != "paper"]


def _short(key: str, value: Any) -> str:
    """A value in a table: of a target or an address the last part, at most 60 characters."""
    if key.endswith("_target_"):
        return str(value).rpartition(".")[2]
    if isinstance(value, str) and "://" in value:
        return ".../" + value.rpartition("/")[2]
    return format_value(value, limit=60)


def format_delta(differences: Iterable[Difference]) -> str:
    """Differences in one cell of a table: `` `key`: old -> new `` (`+` added, `-` removed)."""
    parts = []
    for key, old, new in differences:
        mark = "+ " if old is ABSENT else "- " if new is ABSENT else ""
        values = [_short(key, value) for value in (old, new) if value is not ABSENT]
        parts.append(_escape(f"{mark}`{key}`: {' -> '.join(values)}"))
    return "<br>".join(parts) or "nothing"


def _escape(text: str) -> str:
    return text.replace("|", "\\|")


def format_numbers(table: str, row: str, all_metrics: bool = True) -> str:
    """The numbers that the paper prints for a row, such as `mask AP 30.3, AP50 51.2`.

    Args:
        table: id in tables.json.
        row: the row's name there.
        all_metrics: else AP alone.
    """
    parts = []
    for task, metrics in paper_numbers(table, row).items():
        shown = [
            f"{name} {value}"
            for name, value in metrics.items()
            if not isinstance(value, Mapping) and (all_metrics or name == "AP")
        ]
        if shown:
            parts.append(f"{task_title(task)} {', '.join(shown)}")
    printed = next(r for t, _, r in _printed_rows() if t == table and r["row"] == row)
    if not parts:  # timing: numbers without a task
        parts = [
            f"{name.replace('_', ' ')} {value}"
            for name, value in printed.items()
            if isinstance(value, (int, float)) and not isinstance(value, bool)
        ]
    derived = f" (derived: {printed['derived']})" if "derived" in printed else ""
    return ("; ".join(parts) or "-") + derived


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _grouped(rows: Iterable[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    return groups


_CONFIGS_INTRODUCTION = f"""\
# Configs

Generated by `{_COMMAND}`; do not edit.

One file is one row of a table of the paper. `common/` holds the blocks that they are assembled
from and cannot be run. Each file runs at three scales:

    python train_net.py --config-file configs/table2a/r50_fpn.py --profile tiny

`tiny` takes seconds on a CPU and shows that a row runs; `mini` takes minutes on the embedded data
and shows whether a difference between rows appears; `paper`, the default, is the paper's data and
schedule. `--diff-config OTHER` prints what differs between two files, `--print-config` all that a
file says. `docs/extending.md` shows how to add a file of your own.

Rows are trained as the paper trained them, stage by stage: `train.proposals` names a file in
`rpn/`, on whose stored proposals a row is trained and tested. The command above makes what is
missing first; rows that name the same file share it. `train.proposals=null` on the command line
trains RPN and heads together instead.

*Against* names the row that a row is compared with (its control), *changes* is all that it states
differently. Rows that say the same are one run, whose results count for each of them. Numbers are
the paper's; metrics are in percent.
"""


def format_configs_readme() -> str:
    """Returns the text of configs/README.md."""
    parts = [_CONFIGS_INTRODUCTION]
    all_rows = load_rows()
    uses = _uses(all_rows)
    for group, rows in _grouped(all_rows).items():
        parts.append(f"## {group_title(group)}\n")
        if rows[0].table is None:
            parts.append(_folder_table(rows, uses) + "\n")
            continue
        lines, below = [], []
        for row in rows:
            others = [f"`{other}`" for other in same_run(row.id) if other != row.id]
            cell = [f"the same run as {', '.join(others)}"] if others else []
            if row.control is not None:
                differences = stated_differences(row.id, row.control)
                if len(differences) <= _INLINE:
                    cell.append(format_delta(differences))
                else:
                    cell.append(f"{len(differences)} keys, listed below")
                    text = format_diff(differences, row.control, row.id)
                    below.append(
                        f"<details><summary>{row.name} against {row.control}</summary>\n\n"
                        f"```\n{text}\n```\n\n</details>\n"
                    )
            control = f"[{row.control}]({row.control}.py)" if row.control else "-"
            numbers = format_numbers(str(row.table), row.name)
            lines.append(
                [row.name, f"[{row.id}]({row.id}.py)", control, "<br>".join(cell) or "-", numbers]
            )
        parts.append(_table(["row", "file", "against", "changes", "paper"], lines) + "\n")
        parts += below
    return "\n".join(parts)


def _uses(rows: Iterable[Row]) -> dict[str, list[str]]:
    """Config to the configs that need its run first, in order."""
    uses: dict[str, list[str]] = {}
    for row in rows:
        for config in stages_of(row.id).values():
            uses.setdefault(config, []).append(row.id)
    return uses


def _folder_table(rows: Sequence[Row], uses: Mapping[str, Sequence[str]]) -> str:
    """Configs that are no rows; where others need their runs, with these."""
    needed = any(row.id in uses for row in rows)
    lines = [
        [f"[{row.id}]({row.id}.py)", _escape(row.summary)]
        + ([", ".join(f"`{c}`" for c in uses.get(row.id, ())) or "-"] if needed else [])
        for row in rows
    ]
    return _table(["file", "what", *(["needed by"] if needed else [])], lines)


def format_train_keys() -> str:
    """Returns the text of docs/train_keys.md."""
    return (
        inspect.cleandoc(
            f"""
        # Keys of the `train` section

        Generated by `{_COMMAND}`; do not edit.

        A config file sets some of them, every other one has its default. On the command line:
        `train.max_iter=1000 train.amp.enabled=true`. An unknown key or a wrong type stops before
        anything is built, and names the nearest known key. The other sections (`model`,
        `dataloader`, `optimizer`, `lr_multiplier`) describe calls: what may stand there is what the
        called class or function takes. `--print-config` shows them all for a config.
        """
        )
        + f"\n\n{format_schema()}"
    )


def format_contents(records: Sequence[Record]) -> str:
    """Returns the section of README.md: every row with its file, the paper's number and ours."""
    rows = load_rows()
    lines = []
    for row in rows:
        numbers = format_numbers(row.table, row.name, all_metrics=False) if row.table else "-"
        file = f"[{row.id}](configs/{row.id}.py)"
        label = _table_label(row.group)
        lines.append(
            [
                label,
                row.name or "-",
                file,
                numbers,
                format_results_of(row.id, records, row.table, row.name),
            ]
        )
    covered = {row.table for row in rows}
    ours = {table for table, _, printed in _printed_rows() if not printed.get("peer")}
    missing = [_table_label(table) for table in load_tables() if table in ours - covered]
    text = _table(["table", "row", "config", "paper", "here"], lines)
    text += (
        "\n\n[configs/README.md](configs/README.md) says what each row changes. *Here* is from the "
        "records below `results/`:\nunmarked at full scale; `mini` on the embedded data, not "
        "comparable with the paper's number.\n"
    )
    return text + (f"\nNo config yet: {', '.join(missing)}.\n" if missing else "")


def replace_section(text: str, section: str) -> str | None:
    """Puts a section between the two markers of a text; None where they are not there, in order."""
    head, begin, rest = text.partition(f"{BEGIN}\n")
    _, end, tail = rest.partition(END)
    return f"{head}{begin}\n{section}\n{end}{tail}" if begin and end else None


def load_report(folders: Iterable[Path]) -> Report:
    """A report on all rows, from the records in folders."""
    rows = load_rows()
    by_id = {row.id: row for row in rows}
    variants = {variant.config: variant for variant in load_variants()}
    shown = []
    last = {config: place for place, config in enumerate(variants)}
    # variants build upon each other, which the order of their names does not tell
    for row in sorted(rows, key=lambda row: (row.group == _VARIANTS, last.get(row.id, 0))):
        name, control, gains = row.name or row.id.partition("/")[2], row.control, None
        if variant := variants.get(row.id):
            control = variant.parent
            gains = _gains(by_id[variant.row], by_id[variant.row_parent])
        shown.append(ReportRow(row.group, name, row.id, control, gains))
    titles = {row.group: group_title(row.group) for row in rows}
    return build_report(shown, titles, load_material(folders))


def _gains(row: Row, control: Row) -> dict[str, float]:
    """The paper's differences of AP between two rows, by task."""
    better, worse = (paper_numbers(str(r.table), r.name) for r in (row, control))
    return {
        task: round(better[task]["AP"] - worse[task]["AP"], 6)
        for task in better
        if "AP" in better[task] and "AP" in worse.get(task, {})
    }


def report_files(root: Path, report: Report) -> dict[Path, str | None]:
    """Returns the files that are made from the records, as :func:`generated_files`."""
    readme = root / "README.md"
    contents = format_contents(report.material.records)
    plots = {
        root / PLOTS / figure.name: figure.svg
        for figures in report.figures.values()
        for found in figures.values()
        for figure in found
    }
    return {
        root / "RESULTS.md": format_results_page(report, root),
        root / "results" / "README.md": format_records_index(report),
        **plots,
        readme: replace_section(readme.read_text(encoding="utf-8"), contents),
    }


def generated_files(root: Path) -> dict[Path, str | None]:
    """Returns every generated file with its text; None for a README.md without the markers."""
    folder = root / "results"
    report = load_report([folder] if folder.is_dir() else [])
    benchmarks = load_benchmarks(root / RECORDS)
    plots = {root / file: text for file, text in performance_plots(benchmarks).items()}
    return {
        root / "configs" / "README.md": format_configs_readme(),
        root / "docs" / "train_keys.md": format_train_keys(),
        root / "docs" / "records.md": format_record_schema(),
        root / "docs" / "performance.md": format_performance_page(benchmarks),
        **plots,
        **report_files(root, report),
    }


def checkout_root() -> Path:
    """The folder of this checkout.

    Raises:
        ConfigError: the package is installed without one.
    """
    root = config_root().parent
    if not (root / "train_net.py").is_file():
        raise ConfigError(f"Documentation is generated in a checkout, and {root} is none.")
    return root


def write_files(root: Path, files: Mapping[Path, str | None], check: bool) -> int:
    """Writes generated files, or with `check` names those that are stale.

    Plots in docs/report/ that are not among the files are of earlier records: they are removed.

    Returns:
        1 where `check` found something, or README.md lacks the markers; else 0.
    """
    problems = 0
    for file in sorted(set((root / PLOTS).glob("*.svg")) - set(files)):
        if check:
            print(f"{file.relative_to(root)}: stale, nothing shows it; `{_COMMAND}` removes it")
            problems += 1
        else:
            file.unlink()
            print(f"{file.relative_to(root)}: removed")
    for file, text in files.items():
        name = file.relative_to(root)
        if text is None:
            print(f"{name}: the lines {BEGIN} and {END} are missing")
        elif file.is_file() and file.read_text(encoding="utf-8") == text:
            continue
        elif not check:
            file.parent.mkdir(parents=True, exist_ok=True)
            atomic_write_text(file, text)
            print(f"{name}: written")
            continue
        else:
            print(f"{name}: stale; `{_COMMAND}` (or `make docs`) writes it")
        problems += 1
    return min(problems, 1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the generated files, or with `--check` names those that are stale.

    Returns:
        1 where `--check` found something, or README.md lacks the markers; else 0.
    """
    parser = argparse.ArgumentParser(prog=_COMMAND, description="Writes generated documentation.")
    parser.add_argument("--check", action="store_true", help="write nothing, name stale files")
    check = parser.parse_args(arguments).check
    root = checkout_root()
    return write_files(root, generated_files(root), check)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"error: {error}")
