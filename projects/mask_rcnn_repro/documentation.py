"""Generated documentation: what would otherwise be typed by hand and drift from the code.

`python -m mask_rcnn_repro.documentation` writes, `--check` only says what is stale:

| file | made from |
|---|---|
| configs/README.md | the configs, their differences, paper/tables.json |
| docs/train_keys.md | the schema of the `train` section |
| docs/records.md | the schema of result records |
| README.md, between its two markers | the configs, paper/tables.json, records below results/ |
"""

from __future__ import annotations

import argparse
import ast
import functools
import inspect
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from mask_rcnn_repro.config import (
    ABSENT,
    config_hash,
    config_root,
    diff_configs,
    equal_configs,
    find_config,
    format_diff,
    format_schema,
    get_config,
    list_configs,
    to_plain,
)
from mask_rcnn_repro.config.diff import Difference, format_value
from mask_rcnn_repro.engine.atomic import atomic_write_text
from mask_rcnn_repro.errors import ConfigError, UserError
from mask_rcnn_repro.evaluation.record_docs import format_record_schema
from mask_rcnn_repro.evaluation.records import Record, load_record
from mask_rcnn_repro.paper import compare, load_tables, paper_numbers

BEGIN, END = "<!-- generated: tables -->", "<!-- /generated -->"
"""What stands in README.md between these lines is generated."""

_COMMAND = "python -m mask_rcnn_repro.documentation"
_INLINE = 8  # up to so many differences from a control stand in the table, more below it

_TASKS = {"bbox": "box", "segm": "mask", "keypoints": "keypoint"}
_FOLDER_TITLES = {
    "quickstart": "Quickstart: embedded data, no row of the paper",
    "model_zoo": "Model zoo: Detectron2's published models, for `--eval-only`",
    "rpn": "RPN stages: proposals for the rows that are trained stage by stage",
}


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


def load_rows() -> list[Row]:
    """Every runnable config, sorted by the paper's tables and their rows, others at the end."""
    rows = []
    for config in list_configs():
        tree = ast.parse(find_config(config_root() / f"{config}.py").read_text(encoding="utf-8"))
        summary = " ".join((ast.get_docstring(tree) or "").split())
        paper = _config(config).get("paper") or {}
        rows.append(
            Row(config, summary, paper.get("table"), paper.get("row", ""), paper.get("control"))
        )
    order = {(t, r["row"]): (i, j) for i, (t, j, r) in enumerate(_printed_rows())}
    last = (len(order), 0)
    return sorted(rows, key=lambda r: (*order.get((str(r.table), r.name), last), r.id))


def _printed_rows() -> list[tuple[str, int, dict[str, Any]]]:
    return [
        (table, number, row)
        for table, content in load_tables().items()
        for number, row in enumerate(content.get("rows", ()))
    ]


@functools.cache
def _config(config: str, profile: str = "paper", seed: int | None = None) -> Any:
    return get_config(config, profile, seed=seed)


def group_title(group: str) -> str:
    """Heading of a table of the paper, or of a folder of other configs."""
    if group not in load_tables():
        return _FOLDER_TITLES.get(group, group)
    table = load_tables()[group]
    split = f" ({table['split']})" if "split" in table else ""
    return f"{_table_name(group)}{table['title']}{split}"


def _table_name(table: str) -> str:
    return f"Table {table}: " if table[0].isdigit() else ""


def stated_differences(config: str, control: str) -> list[Difference]:
    """What a config states differently from its control; what follows from it is left out.

    Returns:
        As :func:`diff_configs`, with interpolations as text and without `paper`.
    """
    ours, theirs = (to_plain(_config(c), resolve=False) for c in (config, control))
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


def _task_title(task: str) -> str:
    kind, _, of = task.partition("_")
    return f"{_TASKS.get(kind, kind.capitalize())}{f' ({of})' if of else ''}"


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
            parts.append(f"{_task_title(task)} {', '.join(shown)}")
    printed = next(r for t, _, r in _printed_rows() if t == table and r["row"] == row)
    if not parts:  # timing: numbers without a task
        parts = [
            f"{name.replace('_', ' ')} {value}"
            for name, value in printed.items()
            if isinstance(value, (int, float)) and not isinstance(value, bool)
        ]
    derived = f" (derived: {printed['derived']})" if "derived" in printed else ""
    return ("; ".join(parts) or "-") + derived


def load_results(folder: Path) -> list[Record]:
    """Reads the records below a folder, oldest first.

    Raises:
        RecordError: a json file there is no record.
    """
    return sorted((load_record(f) for f in folder.rglob("*.json")), key=lambda r: r.created)


def _complete(record: Record) -> bool:
    done = record.iterations_done
    return done == record.iterations_planned or (record.mode == "eval" and done is None)


def format_ours(row: Row, records: Sequence[Record]) -> str:
    """Our results for a row: AP by task, the mean over seeds, for each profile that was run.

    A record counts if it is complete and its config is, by hash, the row's as it is now: records
    of rows that say the same count too, those of an older or overridden config do not.
    """
    by_profile: dict[str, dict[int, Record]] = {}
    for record in records:
        profile, seed = record.config.profile, record.seed
        if _complete(record) and record.config.hash == _hash(row.id, profile, seed):
            by_profile.setdefault(profile, {})[seed] = record
    parts = []
    for profile in sorted(by_profile, key=lambda p: (p != "paper", p)):
        runs = list(by_profile[profile].values())
        tasks = list(paper_numbers(row.table, row.name)) if row.table else list(runs[0].metrics)
        numbers = []
        for task in tasks:
            values = [compare(run, {task: {"AP": 0.0}})[0].ours for run in runs]
            known = [value for value in values if value is not None]
            if known:
                numbers.append(f"{_task_title(task)} AP {fmean(known):.1f}")
        seeds = f" ({len(runs)} seeds)" if len(runs) > 1 else ""
        label = "" if profile == "paper" else f"{profile}: "
        parts.append(f"{label}{', '.join(numbers) or 'no metrics'}{seeds}")
    return "; ".join(parts) or "not run"


@functools.cache
def _hash(config: str, profile: str, seed: int) -> str | None:
    try:
        return config_hash(_config(config, profile, seed))
    except ConfigError:  # a profile of another version
        return None


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

*Against* names the row that a row is compared with (its control), *changes* is all that it states
differently. Numbers are the paper's, in percent.
"""


def format_configs_readme() -> str:
    """Returns the text of configs/README.md."""
    parts = [_CONFIGS_INTRODUCTION]
    equal = {c: group for group in equal_configs().values() for c in group}
    for group, rows in _grouped(load_rows()).items():
        parts.append(f"## {group_title(group)}\n")
        if rows[0].table is None:
            lines = [[f"[{row.id}]({row.id}.py)", _escape(row.summary)] for row in rows]
            parts.append(_table(["file", "what"], lines) + "\n")
            continue
        lines, below = [], []
        for row in rows:
            others = [f"`{other}`" for other in equal[row.id] if other != row.id]
            delta = f"the same run as {', '.join(others)}<br>" if others else ""
            if row.control is None:
                delta += "-"
            else:
                differences = stated_differences(row.id, row.control)
                if len(differences) <= _INLINE:
                    delta += format_delta(differences)
                else:
                    delta += f"{len(differences)} keys, listed below"
                    text = format_diff(differences, row.control, row.id)
                    below.append(
                        f"<details><summary>{row.name} against {row.control}</summary>\n\n"
                        f"```\n{text}\n```\n\n</details>\n"
                    )
            control = f"[{row.control}]({row.control}.py)" if row.control else "-"
            numbers = format_numbers(str(row.table), row.name)
            lines.append([row.name, f"[{row.id}]({row.id}.py)", control, delta, numbers])
        parts.append(_table(["row", "file", "against", "changes", "paper"], lines) + "\n")
        parts += below
    return "\n".join(parts)


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
        lines.append([row.group, row.name or "-", file, numbers, format_ours(row, records)])
    covered = {row.table for row in rows}
    ours = {table for table, _, printed in _printed_rows() if not printed.get("peer")}
    missing = [table for table in load_tables() if table in ours - covered]
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


def generated_files(root: Path) -> dict[Path, str | None]:
    """Returns every generated file with its text; None for a README.md without the markers."""
    readme = root / "README.md"
    contents = format_contents(load_results(root / "results"))
    return {
        root / "configs" / "README.md": format_configs_readme(),
        root / "docs" / "train_keys.md": format_train_keys(),
        root / "docs" / "records.md": format_record_schema(),
        readme: replace_section(readme.read_text(encoding="utf-8"), contents),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the generated files, or with `--check` names those that are stale.

    Returns:
        1 where `--check` found something, or README.md lacks the markers; else 0.
    """
    parser = argparse.ArgumentParser(prog=_COMMAND, description="Writes generated documentation.")
    parser.add_argument("--check", action="store_true", help="write nothing, name stale files")
    check = parser.parse_args(arguments).check
    root = config_root().parent
    if not (root / "train_net.py").is_file():
        raise ConfigError(f"Documentation is generated in a checkout, and {root} is none.")
    problems = 0
    for file, text in generated_files(root).items():
        name = file.relative_to(root)
        if text is None:
            print(f"{name}: the lines {BEGIN} and {END} are missing")
        elif file.is_file() and file.read_text(encoding="utf-8") == text:
            continue
        elif not check:
            atomic_write_text(file, text)
            print(f"{name}: written")
            continue
        else:
            print(f"{name}: stale; `{_COMMAND}` (or `make docs`) writes it")
        problems += 1
    return min(problems, 1)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"error: {error}")
