"""What the command lines of all commands share: parser, common arguments, exit statuses.

Standard library only, because `--help` imports it and nothing else.
"""

from __future__ import annotations

import argparse
import difflib
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from mask_rcnn_repro.errors import UserError
from mask_rcnn_tools.common.commands import as_typed

PROFILES = ("paper", "mini", "tiny")

CONFIG_CODE_WARNING = (
    "A config file is Python code and runs with your rights: use only files that you trust."
)
OVERRIDES_OF_TRAINING = """\
Give the overrides (key=value, +key=value, ~key) with which the model was trained.
`train_net.py --help` explains them."""


def run_command(
    main: Callable[[argparse.Namespace], int | None],
    args: argparse.Namespace,
    stopped: str = "Stopped.",
) -> None:
    """Runs a parsed command and turns errors and its status into the exit status of the process.

    Args:
        main: Runs the command and returns its exit status; None means 0.
        args: Parsed command line.
        stopped: Message after Ctrl-C.

    Raises:
        SystemExit: With status 2 after a :class:`UserError`, whose message is printed; with 130
            after Ctrl-C; with the status of the command if it is not 0.
    """
    try:
        status = main(args)
    except UserError as error:
        print(as_typed(f"error: {error}"), file=sys.stderr, flush=True)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print(stopped, file=sys.stderr, flush=True)
        raise SystemExit(130) from None
    if status:
        raise SystemExit(status)


class CommandParser(argparse.ArgumentParser):
    """Parser that suggests the nearest flag for an unknown one, and accepts no abbreviations.

    Args:
        prog: Name of the script.
        usage: Arguments of the script, for its usage line.
        description: Printed as it is.
        epilog: Printed as it is.
        replacements: Flags of other commands, each mapped to what to write here.
    """

    def __init__(
        self,
        prog: str,
        usage: str,
        description: str,
        epilog: str,
        replacements: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(
            prog=as_typed(prog),
            usage=as_typed(f"{prog} {usage}"),
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self._replacements = replacements or {}

    def format_help(self) -> str:
        """Returns the help, with the commands as the user types them."""
        return as_typed(super().format_help())

    def error(self, message: str) -> NoReturn:
        """Prints the message, for an unknown flag with a suggestion, and exits with status 2."""
        prefix = "unrecognized arguments: "
        if message.startswith(prefix + "-"):
            name = message.removeprefix(prefix).split()[0].partition("=")[0]
            message = f"unknown flag {name}" + self._suggestion(name)
        super().error(as_typed(message))

    def _suggestion(self, name: str) -> str:
        if name in self._replacements:
            return f"; write {self._replacements[name]}"
        flags = [flag for action in self._actions for flag in action.option_strings]
        close = [flag for flag in flags if flag.startswith(name)]
        close = close or [flag for flag in flags if name.startswith(f"{flag}-")]
        close = close or difflib.get_close_matches(name, flags, n=1, cutoff=0.6)
        text = f"; did you mean {close[0]}?" if close else "; --help lists the known flags"
        takes_overrides = any(not action.option_strings for action in self._actions)
        if takes_overrides and ("." in name or not close):
            text += " (config values are given as key=value, without dashes)"
        return text


def number(
    kind: type[int] | type[float], least: float, most: float = math.inf, above: bool = False
) -> Callable[[str], Any]:
    """Returns an argparse type for finite numbers from `least`, or above it, to `most`."""

    def parse(text: str) -> int | float:
        value = kind(text)
        low = value <= least if above else value < least
        if not math.isfinite(value) or low or value > most:
            limit = f"above {least}" if above else f"at least {least}"
            limit += "" if math.isinf(most) else f" and at most {most}"
            raise argparse.ArgumentTypeError(f"must be {limit}, got {text}")
        return value

    parse.__name__ = kind.__name__  # argparse prints it: "invalid int value"
    return parse


def add_config_arguments(
    parser: argparse.ArgumentParser,
    *,
    seed: str,
    config: str = "config: a .py file, an id such as table2a/r50_fpn, a saved config.yaml, or the "
    "directory of a run",
    profile: str = "scale of the config (default paper)",
    required: bool = True,
) -> None:
    """Adds `--config-file`, `--profile`, `--seed` and the overrides.

    Args:
        parser: Parser of the command.
        seed: Help text of `--seed`.
        config: Help text of `--config-file`.
        profile: Help text of `--profile`.
        required: Whether `--config-file` must be given; if not, its default is "".
    """
    add = parser.add_argument
    add("--config-file", required=required, default="", metavar="FILE", help=config)
    add("--profile", choices=PROFILES, default="paper", help=profile)
    add("--seed", type=number(int, 0, 2**32 - 1), metavar="S", help=seed)
    add("overrides", nargs="*", metavar="key=value", help="config overrides, see below")


def add_checkpoint_arguments(parser: argparse._ActionsContainer) -> None:
    """Adds `--checkpoint` and `--rpn-checkpoint` to a parser or a group."""
    parser.add_argument(
        "--checkpoint",
        metavar="FILE",
        help="weights of the model (default: the last checkpoint of this config's own run)",
    )
    parser.add_argument(
        "--rpn-checkpoint",
        metavar="FILE",
        help="weights of the RPN of a stage-wise model (default: those of the RPN's own run)",
    )


def add_drawing_arguments(parser: argparse._ActionsContainer) -> None:
    """Adds `--scale` and `--color-by` to a parser or a group."""
    parser.add_argument(
        "--scale",
        type=number(float, 0, 32, above=True),
        metavar="X",
        help="scale of pictures relative to the images (default: 1, but small images are enlarged "
        "until labels are legible)",
    )
    parser.add_argument(
        "--color-by",
        choices=("auto", "class", "instance"),
        default="auto",
        help="one color per class or per instance (default: class, unless there is only one)",
    )


def split_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separates overrides from the values of a flag that takes all words that follow it.

    An override is `key=value`, `+key=value` or `~key` with a key that no path or pattern could be,
    unless a file of that name exists.

    Returns:
        The values and the overrides, each in the order given.
    """
    overrides = [word for word in words if _is_override(word)]
    return [word for word in words if word not in overrides], overrides


def _is_override(word: str) -> bool:
    if os.path.lexists(word):
        return False
    key, equals, _ = word.partition("=")
    return (bool(equals) or (word.startswith("~") and word != "~")) and not set("/*?[") & set(key)


def check_overrides(
    parser: argparse.ArgumentParser, overrides: Sequence[str], *, config_given: bool = True
) -> None:
    """Exits with the parser's error at the first word that is not an override.

    Args:
        parser: Parser of the command.
        overrides: Positional arguments.
        config_given: If False, the error for a file among them suggests `--config-file`.
    """
    for text in overrides:
        if not text.startswith("~") and "=" not in text:
            hint = ""
            if text.endswith((".py", ".yaml")) and not config_given:
                hint = f"; for a config file write --config-file {text}"
            parser.error(f"{text!r} is not key=value, +key=value or ~key{hint}")
