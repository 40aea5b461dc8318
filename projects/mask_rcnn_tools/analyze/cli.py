"""The command line of `tools/analyze.py`. Standard library only: `--help` answers at once."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence

from mask_rcnn_tools.train.cli import PROFILES, CommandParser, check_overrides

PARTS = ("errors", "confusion", "images", "masks", "calibration", "keypoints")

_DESCRIPTION = """\
Says what a trained model gets wrong, from the predictions that its evaluation wrote: error types
and what each costs (TIDE), confusions, best and worst images, masks against boxes, boundaries,
reliability of scores, error types of keypoints. Tables are printed; analysis.json, plots and
drawn images go to one folder. No model is run.
A config file is Python code and runs with your rights: use only files that you trust."""

_EPILOG = """\
Changes to the config (key=value, +key=value, ~key) are those that the model was trained with;
train_net.py --help explains them.

examples:
  the run of a config:
    tools/analyze.py --config-file table2a/r50_fpn --profile mini
  a run by its folder, or by its record:
    tools/analyze.py --run output/table2a/r50_fpn@mini/seed0
  predictions of any detector, in COCO's result format, on the data set of a config:
    tools/analyze.py --config-file table2a/r50_fpn --predictions bbox.json segm.json
  a part of it, of confident detections only, as JSON:
    tools/analyze.py --run output/table2a/r50_fpn/seed0 --parts confusion images \\
      --score-threshold 0.7 --json"""


def _share(text: str) -> float:
    value = float(text)
    if not math.isfinite(value) or not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be from 0 to 1, got {text}")
    return value


def _whole_number(least: int) -> object:
    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, got {text}")
        return value

    return number


def build_parser() -> argparse.ArgumentParser:
    """Builds the parser."""
    parser = CommandParser(
        prog="analyze.py",
        usage="analyze.py (--config-file FILE | --run FOLDER) [flags] "
        "[key=value +key=value ~key ...]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument_group("what is analysed").add_argument
    add(
        "--config-file",
        default=None,
        metavar="FILE",
        help="config of the model: a .py file, a saved config.yaml, or an id",
    )
    add(
        "--profile",
        choices=PROFILES,
        default="paper",
        help="scale that it was trained at (default paper)",
    )
    add("--seed", type=int, default=None, metavar="S", help="seed of the run")
    add(
        "--run",
        default=None,
        metavar="FOLDER",
        help="folder of a run or an evaluation, or its record.json, in place of --config-file",
    )
    add(
        "--predictions",
        nargs="+",
        default=None,
        metavar="FILE",
        help="COCO result files (or their folder); several list the same detections in the same "
        "order (default: those of the run's last evaluation)",
    )
    add = parser.add_argument_group("how").add_argument
    add(
        "--parts",
        nargs="+",
        choices=PARTS,
        default=list(PARTS),
        metavar="PART",
        help=f"what to analyse: {', '.join(PARTS)} (default: all that there is material for)",
    )
    add(
        "--iou-threshold",
        type=_share,
        default=0.5,
        metavar="T",
        help="least IoU of a detection that found an object (default 0.5)",
    )
    add(
        "--background-threshold",
        type=_share,
        default=0.1,
        metavar="T",
        help="up to this IoU a detection lies on the background (default 0.1)",
    )
    add(
        "--score-threshold",
        type=_share,
        default=0.5,
        metavar="S",
        help="for confusions and images: least score of a detection that counts (default 0.5)",
    )
    add(
        "--max-detections",
        type=_whole_number(1),  # type: ignore[arg-type]
        default=100,
        metavar="N",
        help="an image, those with the highest scores (default 100)",
    )
    add = parser.add_argument_group("what is made").add_argument
    add(
        "--output",
        default=None,
        metavar="FOLDER",
        help="where files go (default: analysis/ in the run's folder, or beside the predictions)",
    )
    add(
        "--images",
        type=_whole_number(0),  # type: ignore[arg-type]
        default=6,
        metavar="N",
        help="number of best and of worst images that are drawn (default 6)",
    )
    add(
        "--format",
        choices=("png", "svg", "both"),
        default="png",
        help="of plots (default png); drawn images are always png",
    )
    add("--json", action="store_true", help="print analysis.json in place of the tables")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="changes to the config, see below"
    )
    return parser


def _is_change(text: str) -> bool:
    return "=" in text or (text.startswith("~") and not text.startswith("~/"))


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line; mistakes are printed and exit with status 2.

    Args:
        argv: arguments without the program's name; None for those of this process.

    Returns:
        One attribute per flag, and `overrides`.
    """
    parser = build_parser()
    given = sys.argv[1:] if argv is None else list(argv)
    args = parser.parse_intermixed_args(given)
    # --predictions takes all that follows it
    if args.predictions is not None:
        args.overrides += [value for value in args.predictions if _is_change(value)]
        args.predictions = [value for value in args.predictions if not _is_change(value)]
    check_overrides(parser, args.overrides)
    if (args.config_file is None) == (args.run is None):
        parser.error("give either --config-file FILE or --run FOLDER")
    if args.run is not None and args.profile != "paper":
        parser.error("--run has its profile in its config.yaml; leave --profile away")
    if args.background_threshold > args.iou_threshold:
        parser.error(
            f"--background-threshold {args.background_threshold:g} must not be above "
            f"--iou-threshold {args.iou_threshold:g}"
        )
    return args
