"""Entry point of `mask-rcnn-repro`, of `train_net.py` and of all scripts in `tools/`."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence

from mask_rcnn_tools.common.command_line import run_command
from mask_rcnn_tools.common.commands import COMMANDS, PROGRAM, use_program_names
from mask_rcnn_tools.common.early_checks import check_early
from mask_rcnn_tools.startup import fast_imports, quiet_dependencies, set_policy

set_policy()
quiet_dependencies()  # on import, because child processes import this module again


def run(name: str, argv: Sequence[str] | None = None) -> None:
    """Runs a command.

    Parses the command line and checks it before it imports torch, so that `--help` and typing
    mistakes are fast.

    Args:
        name: Package in `mask_rcnn_tools` with `cli.parse_args` and `main.main`. May have a
            `cli.check_early` in place of :func:`~.common.early_checks.check_early`.
        argv: Arguments of the command. None means those of this process.
    """
    cli = importlib.import_module(f"mask_rcnn_tools.{name}.cli")
    args = cli.parse_args(argv)
    run_command(getattr(cli, "check_early", check_early), args)
    with fast_imports():
        main = importlib.import_module(f"mask_rcnn_tools.{name}.main").main
    main(args)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs `mask-rcnn-repro COMMAND ...`.

    Args:
        argv: Command and its arguments. None means those of this process.

    Raises:
        SystemExit: With status 0 after `--help` and `--version`, with 2 if there is no such
            command, and as the command itself.
    """
    name, *arguments = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in COMMANDS:
        use_program_names()
        run(COMMANDS[name].package, arguments)
    elif name in ("-h", "--help"):
        print(_usage())
    elif name == "--version":
        print(importlib.import_module("mask_rcnn_repro").__version__)
    else:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        print(f"{_usage()}\n\nerror: unknown command {name!r}.{hint}", file=sys.stderr)
        raise SystemExit(2)


def _usage() -> str:
    width = max(map(len, COMMANDS))
    return "\n".join(
        [
            f"usage: {PROGRAM} COMMAND [arguments]",
            "",
            "Reproduces the tables of the Mask R-CNN paper.",
            "",
            "commands:",
            *(f"  {name:{width}}  {command.does}" for name, command in COMMANDS.items()),
            "",
            f"`{PROGRAM} COMMAND --help` lists the arguments of a command.",
        ]
    )
