"""Finds what the command line names: tables of the paper, and any configs as rows."""

from __future__ import annotations

import ast
import dataclasses
import difflib
from collections.abc import Sequence
from pathlib import Path

from mask_rcnn_repro.config import config_id, config_root, find_config
from mask_rcnn_repro.config.config_files import SUFFIXES
from mask_rcnn_repro.config.schema import REQUIRED_KEYS
from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.paper.numbers import load_tables
from mask_rcnn_tools.evidence.rows import Row, all_rows, stated_in
from mask_rcnn_tools.evidence.titles import FOLDER_TITLES
from mask_rcnn_tools.tables.choose import find_tables, runnable_rows


def find_named(words: Sequence[str]) -> tuple[list[str], list[Row]]:
    """Separates the words of a command line into tables and configs.

    Args:
        words: Each is a table, see :func:`~mask_rcnn_tools.tables.choose.find_tables`, a config
            file, its id, or a directory of config files, below `configs` or elsewhere.

    Returns:
        The tables, and the rows of the configs in the order given, each once.

    Raises:
        ConfigError: A word is none of these, or a directory holds no config.
    """
    tables: dict[str, None] = {}
    rows: dict[str, Row] = {}
    for word in words:
        found = _files(word)
        own = [row_of(file) for file in found or ()]
        for table in find_tables([word]) if found is None else ():
            if table in load_tables() or table in FOLDER_TITLES:
                tables[table] = None
            else:  # a folder of one's own below configs
                own += [row for row in runnable_rows() if row.table == table]
        for row in own:
            rows.setdefault(row.source, row)
    _check_ids(list(rows.values()))
    return list(tables), list(rows.values())


def _files(word: str) -> list[Path] | None:
    """Returns the config files that a word names. None if it names a table."""
    path = Path(word).expanduser()
    looks_like_path = "/" in word or path.suffix in SUFFIXES
    if not looks_like_path and _is_table(word):
        return None
    try:
        return [find_config(word)]
    except ConfigError as error:
        missing = error
    below = path.is_dir() and path.resolve().is_relative_to(config_root().resolve())
    if path.is_dir() and not below and (looks_like_path or not _is_table(word)):
        return configs_in(path)
    if _is_table(word):
        return None
    if looks_like_path:
        raise missing
    near = difflib.get_close_matches(word, [row.config.rpartition("/")[2] for row in all_rows()])
    configs = [row.config for row in all_rows() if row.config.rpartition("/")[2] in near]
    hint = f" Configs of such a name: {', '.join(configs[:5])}." if configs else ""
    try:
        find_tables([word])
    except ConfigError as error:
        raise ConfigError(f"{error}{hint} A config of your own is named by its path.") from None
    raise AssertionError("it is a table")


def _is_table(word: str) -> bool:
    try:
        return bool(find_tables([word]))
    except ConfigError:
        return False


def configs_in(folder: Path) -> list[Path]:
    """Returns the configs of a directory and of those below it, in alphabetical order.

    A config is a `.py` file that assigns or imports every section. Modules of parts are omitted.
    So are files and directories whose names begin with `_` or `.`.

    Raises:
        ConfigError: There is none.
    """
    files = [
        file
        for file in sorted(folder.rglob("*.py"))
        if not any(part.startswith(("_", ".")) for part in file.relative_to(folder).parts)
    ]
    configs = [file.resolve() for file in files if _binds_sections(file)]
    if not configs:
        raise ConfigError(
            f"{folder} holds no config: none of its {len(files)} .py files sets "
            f"{', '.join(REQUIRED_KEYS)}."
        )
    return configs


def _binds_sections(file: Path) -> bool:
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return False
    names = set()
    for node in tree.body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            names |= {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
    return names >= set(REQUIRED_KEYS)


def row_of(file: Path) -> Row:
    """Returns the row of a config file.

    Args:
        file: Absolute path, from :func:`~mask_rcnn_repro.config.find_config`.

    Raises:
        ConfigError: The file is below `configs` and cannot be run.
    """
    config = config_id(file)
    if file.suffix == ".py" and file.is_relative_to(config_root().resolve()):
        for row in runnable_rows():
            if row.config == config:
                return row
        raise ConfigError(
            f"{config} cannot be run as a row: it is a part of other configs, or a "
            "published model, which train_net.py --eval-only evaluates."
        )
    stated = stated_in(file)
    control = _beside(file, stated.control)
    row = Row(str(file.parent), file.stem, config, control, file=str(file))
    return dataclasses.replace(
        row,
        summary=stated.summary,
        expectation=stated.expectation,
        paper=stated.printed,
        problem=stated.problem,
    )


def _beside(file: Path, control: str | None) -> str | None:
    """Returns the control that a file names: a file beside it, or else the name as it is."""
    if control is None:
        return None
    for name in (control, f"{control}.py"):
        if (file.parent / name).is_file():
            return str((file.parent / name).resolve())
    return control


def _check_ids(rows: Sequence[Row]) -> None:
    """Checks that no two files have the same id, which names the output directory."""
    by_id: dict[str, Row] = {}
    for row in rows:
        other = by_id.setdefault(row.config, row)
        if other is not row:
            raise ConfigError(
                f"{other.source} and {row.source} have the same id, {row.config}, and so the same "
                "output directory. Rename one of the files, or the directory that it is in."
            )


def find_control(text: str, where: str) -> Row:
    """Returns the row of a control.

    Args:
        text: Its file or id.
        where: What names it, for the error message.

    Raises:
        ConfigError: There is no such config.
    """
    try:
        return row_of(find_config(text))
    except ConfigError as error:
        raise ConfigError(f"The control {text!r} ({where}) is not known. {error}") from None
