"""The command line of `train_net.py`. Standard library only, so that `--help` answers at once."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

PROFILES = ("paper", "mini", "tiny")

_DESCRIPTION = """\
Trains a config and evaluates it, or evaluates a checkpoint with --eval-only.
A config file is Python code and runs with your rights: use only files that you trust."""

_EPILOG = """\
changing values (before or after the flags):
  key=value     set a key that exists        train.max_iter=1000   optimizer.lr=1e-3
  +key=value    add a key that is not set    +model.vis_period=100
  ~key          delete a key                 ~dataloader.train.mapper.augmentations.1
  Values are YAML: 3, 1e-3, true, null, [1, 2], {a: 1}, 'text', ${train.max_iter}. Put quotes
  around what the shell would take apart: 'model.pixel_std=[1, 1, 1]'.
  --print-config shows every key with its value; `python -m mask_rcnn_repro.config` explains
  the keys of `train`.

examples:
  train the quickstart (minutes, CPU, no download):
    train_net.py --config-file configs/quickstart/mask_rcnn_r18_fpn.py
  evaluate its last checkpoint:
    train_net.py --config-file configs/quickstart/mask_rcnn_r18_fpn.py --eval-only --resume
  see that a row of the paper runs (seconds), then what it changes:
    train_net.py --config-file configs/table2a/r50_fpn.py --profile tiny
    train_net.py --config-file configs/table2a/r50_fpn.py --diff-config configs/table2a/r50_c4.py
  train it as the paper did, on 8 GPUs, with another seed:
    train_net.py --config-file configs/table2a/r50_fpn.py --num-gpus 8 --seed 1
  evaluate weights of your own:
    train_net.py --config-file configs/table2a/r50_fpn.py --eval-only \\
      train.init_checkpoint=weights.pth
"""


# Flags of the other commands, which here are keys of the config.
_KEYS = {
    **dict.fromkeys(("--checkpoint", "--weights"), "train.init_checkpoint=FILE"),
    **dict.fromkeys(("--output", "--output-dir"), "train.output_dir=FOLDER"),
    "--device": "train.device=cpu or train.device=cuda",
}


class CommandParser(argparse.ArgumentParser):
    """The parser of all commands: names the nearest flag where one is unknown.

    Attributes:
        instead: what to write in place of flags that other commands have.
    """

    instead: Mapping[str, str] = {}

    def flags(self) -> list[str]:
        """All flags."""
        return [name for action in self._actions for name in action.option_strings]

    def error(self, message: str) -> NoReturn:
        """Prints the message, which for an unknown flag says what to write, and exits."""
        prefix = "unrecognized arguments: "
        if message.startswith(prefix + "-"):
            unknown = message.removeprefix(prefix).split()[0]
            name = unknown.partition("=")[0]
            message = f"unknown flag {name}"
            takes_overrides = any(not action.option_strings for action in self._actions)
            close = [flag for flag in self.flags() if flag.startswith(name)]
            close = close or [flag for flag in self.flags() if name.startswith(f"{flag}-")]
            close = close or difflib.get_close_matches(name, self.flags(), n=1, cutoff=0.6)
            if name in self.instead:
                message += f"; write {self.instead[name]}"
            elif close:
                message += f"; did you mean {close[0]}?"
            else:
                message += "; --help lists those that there are"
            if takes_overrides and ("." in name or not close) and name not in self.instead:
                message += " (config values are given as key=value, without dashes)"
        super().error(message)


def _whole_number(least: int, below: int | None = None) -> object:
    def number(text: str) -> int:
        value = int(text)
        if value < least or (below is not None and value >= below):
            limit = "" if below is None else f" and below {below}"
            raise argparse.ArgumentTypeError(f"must be at least {least}{limit}, got {value}")
        return value

    return number


def build_parser() -> argparse.ArgumentParser:
    """Builds the parser; flags and defaults are Detectron2's where it has them."""
    parser = CommandParser(
        prog="train_net.py",
        usage="train_net.py --config-file FILE [flags] [key=value +key=value ~key ...]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.instead = _KEYS
    add = parser.add_argument
    add(
        "--config-file",
        default="",
        metavar="FILE",
        help="config to use: a .py file, a saved config.yaml, or an id such as table2a/r50_fpn",
    )
    add(
        "--profile",
        choices=PROFILES,
        default="paper",
        help="scale of the run: paper (default; the paper's data and schedule), mini (minutes, "
        "embedded data), tiny (seconds; proves that it runs)",
    )
    add("--eval-only", action="store_true", help="evaluate weights instead of training")
    add(
        "--tta",
        action="store_true",
        help="with --eval-only: test-time augmentation; the same as train.tta.enabled=true",
    )
    add(
        "--verify",
        nargs="?",
        const="paper",
        default=None,
        metavar="RECORD",
        help="after the evaluation: exit with status 3 unless the expected numbers are met: the "
        "paper's or those of train.verify.expected (default), of this config's record below "
        "results/ (recorded), or of a record's file; docs/verify.md",
    )
    add(
        "--resume",
        action="store_true",
        help="continue from the last checkpoint of the output folder, or evaluate it",
    )
    add(
        "--seed",
        type=_whole_number(0, 2**32),  # type: ignore[arg-type]
        default=None,
        metavar="S",
        help="seed of every source of randomness; the same as train.seed=S",
    )
    processes = parser.add_argument_group("several processes (torchrun works, too)")
    add = processes.add_argument
    add(
        "--num-gpus",
        type=_whole_number(0),  # type: ignore[arg-type]
        default=1,
        metavar="N",
        help="processes per machine, one GPU each; on a CPU, the number of processes (default 1)",
    )
    add(
        "--num-machines",
        type=_whole_number(1),  # type: ignore[arg-type]
        default=1,
        metavar="M",
        help="total number of machines (default 1)",
    )
    add(
        "--machine-rank",
        type=_whole_number(0),  # type: ignore[arg-type]
        default=0,
        metavar="R",
        help="number of this machine, from 0 (default 0)",
    )
    add(
        "--dist-url",
        default="auto",
        metavar="U",
        help="where processes meet, such as tcp://10.0.0.1:29500; auto (default) picks a free "
        "port of this machine",
    )
    showing = parser.add_argument_group("looking without running")
    add = showing.add_argument
    add(
        "--print-config",
        action="store_true",
        help="print the config as it would be used, and stop",
    )
    add(
        "--diff-config",
        default="",
        metavar="OTHER",
        help="print what differs between this config and OTHER, and stop",
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="changes to the config, see below"
    )
    return parser


def check_overrides(
    parser: argparse.ArgumentParser, overrides: Sequence[str], *, config_given: bool = True
) -> None:
    """Exits with the parser's error at the first text that is no change to a config.

    Args:
        parser: of the command line.
        overrides: positional arguments.
        config_given: otherwise a file among them is taken for a forgotten `--config-file`.
    """
    for text in overrides:
        if not text.startswith("~") and "=" not in text:
            hint = ""
            if text.endswith((".py", ".yaml")) and not config_given:
                hint = f"; for a config file write --config-file {text}"
            parser.error(f"{text!r} is not key=value, +key=value or ~key{hint}")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line; mistakes are printed and exit with status 2.

    Args:
        argv: arguments without the program's name; None for those of this process.

    Returns:
        One attribute per flag, and `overrides`, a list of texts in the order given.
    """
    parser = build_parser()
    args = parser.parse_intermixed_args(sys.argv[1:] if argv is None else list(argv))
    if args.verify is not None and (args.verify.startswith("~") or "=" in args.verify):
        args.overrides.insert(0, args.verify)  # `--verify key=value`: not a record
        args.verify = "paper"
    check_overrides(parser, args.overrides, config_given=bool(args.config_file))
    if not args.config_file:
        parser.error(
            "--config-file is missing, such as "
            "--config-file configs/quickstart/mask_rcnn_r18_fpn.py"
        )
    if args.machine_rank >= args.num_machines:
        parser.error(
            f"--machine-rank {args.machine_rank} must be below --num-machines {args.num_machines}"
        )
    if args.num_machines > 1 and args.dist_url == "auto":
        parser.error("several machines need --dist-url, such as tcp://10.0.0.1:29500")
    if args.verify and (args.print_config or args.diff_config):
        parser.error("--verify needs an evaluation, which printing configs does without")
    if args.tta and not args.eval_only:
        parser.error("--tta needs --eval-only")
    if args.tta:
        args.overrides.append("train.tta.enabled=true")
    return args
