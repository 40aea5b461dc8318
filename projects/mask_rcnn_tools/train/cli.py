"""Command line of `train_net.py`. Standard library only, so that `--help` is fast."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mask_rcnn_tools.common.command_line import (
    CONFIG_CODE_WARNING,
    CommandParser,
    add_config_arguments,
    check_overrides,
    number,
)

_DESCRIPTION = f"""\
Trains a config and evaluates it, or evaluates a checkpoint with --eval-only.
{CONFIG_CODE_WARNING}"""

_EPILOG = """\
overrides (before or after the flags):
  key=value     set a key that exists        train.max_iter=1000   optimizer.lr=1e-3
  +key=value    add a key that is not set    +model.vis_period=100
  ~key          delete a key                 ~dataloader.train.mapper.augmentations.1
  Values are YAML: 3, 1e-3, true, null, [1, 2], {a: 1}, 'text', ${train.max_iter}. Quote what the
  shell would split or expand: 'model.pixel_std=[1, 1, 1]'.
  --print-config prints every key with its value; `python -m mask_rcnn_repro.config` explains
  the keys of `train`.

examples:
  train the quickstart (minutes, CPU, no download):
    train_net.py --config-file configs/quickstart/mask_rcnn_r18_fpn.py
  evaluate its last checkpoint:
    train_net.py --config-file configs/quickstart/mask_rcnn_r18_fpn.py --eval-only --resume
  check that a row of the paper runs (seconds), then print what it changes:
    train_net.py --config-file configs/table2a/r50_fpn.py --profile tiny
    train_net.py --config-file configs/table2a/r50_fpn.py --diff-config configs/table2a/r50_c4.py
  train it as the paper did, on 8 GPUs, with another seed:
    train_net.py --config-file configs/table2a/r50_fpn.py --num-gpus 8 --seed 1
  evaluate your own checkpoint:
    train_net.py --config-file configs/table2a/r50_fpn.py --eval-only \\
      train.init_checkpoint=weights.pth
"""

_REPLACEMENTS = {
    **dict.fromkeys(("--checkpoint", "--weights"), "train.init_checkpoint=FILE"),
    **dict.fromkeys(("--output", "--output-dir"), "train.output_dir=FOLDER"),
    "--device": "train.device=cpu or train.device=cuda",
}
"""Flags of the other commands that are config keys here."""


def build_parser() -> CommandParser:
    """Builds the parser. Flags and defaults are Detectron2's where it has them."""
    parser = CommandParser(
        "train_net.py",
        "--config-file FILE [flags] [key=value +key=value ~key ...]",
        _DESCRIPTION,
        _EPILOG,
        _REPLACEMENTS,
    )
    add_config_arguments(
        parser,
        profile="scale of the run: paper (default; the paper's data and schedule), mini (minutes, "
        "embedded data), tiny (seconds; a functional test)",
        seed="seed of every source of randomness; the same as train.seed=S",
        required=False,
    )
    add = parser.add_argument
    add("--eval-only", action="store_true", help="evaluate a checkpoint instead of training")
    add(
        "--tta",
        action="store_true",
        help="with --eval-only: test-time augmentation; the same as train.tta.enabled=true",
    )
    add(
        "--verify",
        nargs="?",
        const="paper",
        metavar="RECORD",
        help="after the evaluation: exit with status 3 unless the expected numbers are met: the "
        "paper's or those of train.verify.expected (default), of this config's record below "
        "results/ (recorded), or of a record file; see docs/verify.md",
    )
    add(
        "--resume",
        action="store_true",
        help="continue from the last checkpoint of the output directory, or evaluate it",
    )
    add = parser.add_argument_group("several processes (torchrun works, too)").add_argument
    add(
        "--num-gpus",
        type=number(int, 0),
        default=1,
        metavar="N",
        help="processes per machine, one GPU each; on a CPU, the number of processes (default 1)",
    )
    add(
        "--num-machines",
        type=number(int, 1),
        default=1,
        metavar="M",
        help="total number of machines (default 1)",
    )
    add(
        "--machine-rank",
        type=number(int, 0),
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
    add = parser.add_argument_group("printing without running").add_argument
    add("--print-config", action="store_true", help="print the effective config and stop")
    add(
        "--diff-config",
        default="",
        metavar="OTHER",
        help="print the differences between this config and OTHER and stop",
    )
    return parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line. Prints mistakes and exits with status 2.

    Args:
        argv: Arguments without the name of the program; None takes those of this process.

    Returns:
        One attribute per flag, and `overrides`, a list of texts in the order given.
    """
    parser = build_parser()
    args = parser.parse_intermixed_args(argv)
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
        parser.error("--verify needs an evaluation; omit --print-config and --diff-config")
    if args.tta and not args.eval_only:
        parser.error("--tta needs --eval-only")
    if args.tta:
        args.overrides.append("train.tta.enabled=true")
    return args
