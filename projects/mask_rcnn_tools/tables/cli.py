"""Command line of `tools/run_table.py`. Standard library only, so that `--help` is fast."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence

from mask_rcnn_tools.common.command_line import (
    CONFIG_CODE_WARNING,
    PROFILES,
    CommandParser,
    check_overrides,
    number,
    split_overrides,
)

EXPECTATIONS = ("greater", "equal", "at_least")

_DESCRIPTION = f"""\
Runs every row of a table of the paper (RPN stages and other inputs once and first), and prints the
table: the paper's number, ours over seeds, differences to the control row, a verdict per claim.
Configs of your own are rows, too: files, directories and ids, with --control, --metric and --sweep.
Rows with a valid record are skipped, and a killed command goes on when it is given again.
{CONFIG_CODE_WARNING}"""

_EPILOG = """\
tables: 1, 2a to 2e, 3 to 9, section4.2 (class-agnostic, fpn-roipool), timing, and the folders
enhanced_r50, quickstart and rpn; 2 stands for 2a to 2e, all for all of the paper.
A config is named by its file or id (my/align.py, table2a/r50_fpn), and a directory stands for the
configs in it; together they are one table. With one of the flags of an ablation all rows are.
key=value, +key=value and ~key change every row; train_net.py --help explains them.

examples:
  what would be run, and how long it takes:
    tools/run_table.py 2c --profile mini --seeds 3 --dry-run
  do it, two rows side by side:
    tools/run_table.py 2c --profile mini --seeds 3 --jobs 2
  two rows at full scale, one on each GPU, an image at a time:
    tools/run_table.py 2c --rows roi_align_ave,roi_pool_max --jobs 2 train.accumulate=16
  on a cluster, 8 GPUs a row; with --dry-run the job scripts are written and not submitted:
    tools/run_table.py 2a --gpus-per-row 8 --slurm --slurm-set partition=gpu --slurm-set time=4320
  the number of seeds of its claims, from the scatter of baseline rows:
    tools/run_table.py 2c --profile mini --plan-seeds
  two configs of one's own against a row of the paper, judged like the paper's claims:
    tools/run_table.py my/align_s1.py my/align_s4.py --control table2a/r50_fpn --seeds 5
  every combination of two keys:
    tools/run_table.py table2a/r50_fpn --seeds 3 --profile mini \\
        --sweep model.roi_heads.mask_head.num_conv=1,2,4 optimizer.lr=0.01,0.02
  only the table, from the records that there are:
    tools/run_table.py 2c --profile mini --show"""


def _seeds(text: str) -> tuple[int, ...]:
    """Parses seeds: `3` means 0, 1, 2; `0,7` and `7,` list them; `planned` is empty."""
    if text == "planned":
        return ()
    if not re.fullmatch(r"\d+(,\d+)*,?", text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a number of seeds, such as 3, nor seeds, such as 0,7, nor planned"
        )
    numbers = [int(part) for part in text.split(",") if part]
    if "," not in text:
        if not 1 <= numbers[0] <= 100:
            raise argparse.ArgumentTypeError(
                f"must be 1 to 100 seeds, got {text}; the seed {text} alone is written {text},"
            )
        return tuple(range(numbers[0]))
    if len(set(numbers)) < len(numbers) or max(numbers) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} names a seed twice, or one above 2**32 - 1")
    return tuple(numbers)


def build_parser() -> CommandParser:
    """Builds the parser."""
    parser = CommandParser(
        "run_table.py",
        "TABLE [TABLE ...] [flags] [key=value +key=value ~key ...]",
        _DESCRIPTION,
        _EPILOG,
    )
    add = parser.add_argument
    add(
        "words",
        nargs="*",
        metavar="TABLE",
        help="table of the paper, such as 2c, or a config, a directory of configs; several are run "
        "together",
    )
    add("--profile", choices=PROFILES, default="paper", help="scale of the runs (default paper)")
    add(
        "--seeds",
        type=_seeds,
        default=(0,),
        metavar="N",
        help="number of seeds, from 0, or the seeds themselves, such as 0,7; planned: as many as "
        "the claims about each row need (default 1)",
    )
    add(
        "--rows",
        action="append",
        default=[],
        metavar="ROW[,ROW]",
        help="only these, by the paper's name or the config's, such as roi_pool_max; may be "
        "repeated",
    )
    add(
        "--jobs",
        type=number(int, 1),
        metavar="N",
        help="rows side by side (default: one a GPU; without GPUs one, with all threads). For long "
        "work on a CPU a trial of about a minute finds whether fewer with more threads do more",
    )
    add(
        "--gpus-per-row",
        type=number(int, 0),
        default=1,
        metavar="N",
        help="processes of a row, one GPU each (default 1; 0, with --slurm: nodes without GPUs)",
    )
    add("--dry-run", action="store_true", help="print the plan and what it costs, and stop")
    add("--show", action="store_true", help="print the table of what has been run, and stop")
    add("--all-metrics", action="store_true", help="AP50, AP75, ... in the table, too")
    add = parser.add_argument_group("an ablation of one's own").add_argument
    add(
        "--control",
        metavar="CONFIG",
        help="file or id that all other rows are compared with (default: what each config names)",
    )
    add(
        "--metric",
        metavar="TASK/NAME",
        help="that is judged, such as segm/AP (default) or bbox/AP75",
    )
    add(
        "--expect",
        choices=EXPECTATIONS,
        help="of the rows against the control: better (default), equal within the margin, or not "
        "worse by more than it",
    )
    add(
        "--margin",
        type=number(float, 0, 100),
        metavar="POINTS",
        help="default 0 for greater, else 0.6, the paper's own",
    )
    add(
        "--sweep",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=V1,V2",
        help="run every combination of these values, in Hydra's syntax: lists, range(1,5)",
    )
    add = parser.add_argument_group("records").add_argument
    add(
        "--results",
        metavar="FOLDER",
        help="records that count beside those of the runs here (default: results/ of the checkout)",
    )
    add(
        "--ignore-results",
        action="store_true",
        help="run also rows whose only record is in that folder",
    )
    add(
        "--reproduce",
        action="store_true",
        help="run all of it here, compare it with the records in that folder, and end with a "
        "verdict; status 3 if a row differs by more than seeds scatter",
    )
    add(
        "--collect",
        action="store_true",
        help="copy finished records to that folder, those of stages too; runs nothing",
    )
    add(
        "--plan-seeds",
        action="store_true",
        help="fix the number of seeds of the tables' claims in plan.json of that folder, from the "
        "scatter of baseline rows; runs nothing",
    )
    add = parser.add_argument_group("on a cluster (needs the package submitit)").add_argument
    add(
        "--slurm",
        action="store_true",
        help="submit one Slurm job a run, each after the jobs of its stages",
    )
    add(
        "--slurm-set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option of sbatch, such as partition=gpu, time=600 (minutes) or "
        "cpus_per_task=16; may be repeated",
    )
    return parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line; see :func:`mask_rcnn_tools.train.cli.parse_args`.

    Returns:
        One attribute per flag, `tables` and `overrides`.
    """
    parser = build_parser()
    args = parser.parse_intermixed_args(argv)
    args.tables, args.overrides = split_overrides(args.words)
    del args.words
    check_overrides(parser, args.overrides)
    if not args.tables:
        parser.error("which table? Such as: run_table.py 2c --profile mini --dry-run")
    for key, flag in (("train.seed", "--seeds"), ("train.output_dir", "train.output_root")):
        if any(o.lstrip("+~").partition("=")[0] == key for o in (*args.overrides, *args.sweep)):
            parser.error(f"{key} is set by this command; use {flag}")
    runs_nothing = (args.show, args.collect, args.plan_seeds)
    if sum((args.dry_run, *runs_nothing)) > 1 or (args.slurm and any(runs_nothing)):
        parser.error(
            "--dry-run, --show, --collect and --plan-seeds exclude each other; --slurm and the "
            "last three"
        )
    if args.reproduce and (args.slurm or any(runs_nothing)):
        parser.error("--reproduce runs rows here; omit --slurm, --show, --collect, --plan-seeds")
    asked = args.control or args.metric or args.expect or args.margin is not None or args.sweep
    if args.plan_seeds and asked:
        parser.error("--plan-seeds is about claims of the paper; of an ablation give --seeds")
    if args.plan_seeds and (args.overrides or args.rows):
        parser.error("--plan-seeds plans whole tables as they are; omit --rows and key=value")
    if args.gpus_per_row == 0 and not args.slurm:
        parser.error("--gpus-per-row 0 needs --slurm; on a machine with GPUs: train.device=cpu")
    if args.slurm_set and not args.slurm:
        parser.error("--slurm-set needs --slurm")
    for text in args.slurm_set:
        if "=" not in text:
            parser.error(f"--slurm-set takes KEY=VALUE, got {text!r}")
    return args


def check_early(args: argparse.Namespace) -> None:
    """Checks tables, configs and keys of a parsed command line before torch is imported.

    Raises:
        ConfigError: One does not exist or is misspelled.
    """
    from mask_rcnn_repro.config.config_files import find_config
    from mask_rcnn_tools.common.early_checks import check_keys
    from mask_rcnn_tools.tables.choose import choose_rows
    from mask_rcnn_tools.tables.named import find_control, find_named

    tables, rows = find_named(args.tables)
    if args.control:
        find_control(args.control, "--control")
    swept = [text.partition("=")[0] for text in args.sweep]
    for row in rows or choose_rows(tables)[:1]:  # rows of the paper know the same keys
        if row.control and not args.control:
            find_control(row.control, row.source)
        check_keys([*args.overrides, *swept], find_config(row.source))
