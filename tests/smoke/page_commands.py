"""Commands on pages: whether they are understood, without running them."""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from mask_rcnn_tools.common.commands import COMMANDS, PROGRAM
from mask_rcnn_tools.common.early_checks import check_early

SCRIPTS = {command.script: command.package for command in COMMANDS.values()}


def commands(text: str) -> Iterator[list[str]]:
    """Yields the words of each line of a shell script.

    Variables before a command, comments, and what follows a pipe are omitted.
    """
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line.partition(" | ")[0], comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            del words[0]
        if words:
            yield words


def understood(words: list[str], *, files: bool = True):
    """Parses a command of this project and checks its files and keys, as at its start.

    Args:
        words: as :func:`commands` yields them.
        files: whether the files that it names exist here; else it is only parsed.

    Returns:
        Its package and its parsed arguments. Of another Python script, which must exist, and of
        pytest, whose paths must, the name and None.
    """
    if words[0] == PROGRAM:
        if words[1].startswith("-"):
            assert words[1:] == ["--help"]
            return PROGRAM, None
        package, arguments = COMMANDS[words[1]].package, words[2:]
    else:
        assert words[0] == "python", words
        if words[1:3] == ["-m", "pytest"]:
            assert all(Path(w).exists() for w in words if w.startswith("tests/"))
            return "pytest", None
        if words[1] not in SCRIPTS:
            assert Path(words[1]).is_file(), words
            return words[1], None
        package, arguments = SCRIPTS[words[1]], words[2:]
    cli = importlib.import_module(f"mask_rcnn_tools.{package}.cli")
    args = cli.parse_args(arguments)
    if files:
        getattr(cli, "check_early", check_early)(args)
    return package, args
