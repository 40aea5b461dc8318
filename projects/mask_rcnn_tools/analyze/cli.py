"""Command line of `tools/analyze.py`. Standard library only, so that `--help` is fast."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mask_rcnn_tools.common.command_line import (
    CONFIG_CODE_WARNING,
    OVERRIDES_OF_TRAINING,
    CommandParser,
    add_config_arguments,
    check_overrides,
    number,
    split_overrides,
)

PARTS = ("errors", "confusion", "images", "masks", "calibration", "keypoints")

_DESCRIPTION = f"""\
Analyzes the errors of a trained model from the predictions that its evaluation wrote: error types
and their cost in AP (TIDE), confusions, best and worst images, mask against box quality,
boundaries, calibration of scores, error types of keypoints. Prints tables. Writes analysis.json,
plots and drawn images to one directory. Does not run the model.
{CONFIG_CODE_WARNING}"""

_EPILOG = f"""\
{OVERRIDES_OF_TRAINING}

examples:
  the run of a config:
    tools/analyze.py --config-file table2a/r50_fpn --profile mini
  a run by its directory or its record:
    tools/analyze.py --run output/table2a/r50_fpn@mini/seed0
  predictions of any detector, in COCO's result format, on the data set of a config:
    tools/analyze.py --config-file table2a/r50_fpn --predictions bbox.json segm.json
  only some parts, for confident detections, as JSON:
    tools/analyze.py --run output/table2a/r50_fpn/seed0 --parts confusion images \\
      --score-threshold 0.7 --json"""


def build_parser() -> CommandParser:
    """Builds the parser."""
    parser = CommandParser(
        "analyze.py",
        "(--config-file FILE | --run FOLDER) [flags] [key=value +key=value ~key ...]",
        _DESCRIPTION,
        _EPILOG,
    )
    add_config_arguments(
        parser,
        profile="scale of its training (default paper)",
        seed="seed of the run",
        required=False,
    )
    add = parser.add_argument_group("input").add_argument
    add(
        "--run",
        metavar="FOLDER",
        help="directory of a run or an evaluation, or its record.json, instead of --config-file",
    )
    add(
        "--predictions",
        nargs="+",
        metavar="FILE",
        help="COCO result files, predictions.json of predict.py, or their directory; several files "
        "list the same detections in the same order (default: those of the run's last evaluation)",
    )
    add = parser.add_argument_group("analysis").add_argument
    add(
        "--parts",
        nargs="+",
        choices=PARTS,
        default=list(PARTS),
        metavar="PART",
        help=f"parts of the analysis: {', '.join(PARTS)} (default: all that the data allows)",
    )
    add(
        "--iou-threshold",
        type=number(float, 0, 1),
        default=0.5,
        metavar="T",
        help="minimum IoU of a true positive (default 0.5)",
    )
    add(
        "--background-threshold",
        type=number(float, 0, 1),
        default=0.1,
        metavar="T",
        help="maximum IoU of a detection on the background (default 0.1)",
    )
    add(
        "--score-threshold",
        type=number(float, 0, 1),
        default=0.5,
        metavar="S",
        help="for confusions and images: minimum score of a detection (default 0.5)",
    )
    add(
        "--max-detections",
        type=number(int, 1),
        default=100,
        metavar="N",
        help="detections per image and class, by score, in all numbers (default 100; keypoint AP "
        "always takes COCO's 20)",
    )
    add = parser.add_argument_group("output").add_argument
    add(
        "--output",
        metavar="FOLDER",
        help="output directory (default: analysis/ in the run's directory or beside the "
        "predictions)",
    )
    add(
        "--images",
        type=number(int, 0),
        default=6,
        metavar="N",
        help="number of best and of worst images to draw (default 6)",
    )
    add(
        "--format",
        choices=("png", "svg", "both"),
        default="png",
        help="format of plots (default png); drawn images are always png",
    )
    add("--json", action="store_true", help="print analysis.json instead of the tables")
    return parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line; see :func:`mask_rcnn_tools.train.cli.parse_args`."""
    parser = build_parser()
    args = parser.parse_intermixed_args(argv)
    if args.predictions is not None:
        args.predictions, overrides = split_overrides(args.predictions)
        args.overrides += overrides
    check_overrides(parser, args.overrides)
    if bool(args.config_file) == (args.run is not None):
        parser.error("give either --config-file FILE or --run FOLDER")
    if args.run is not None and args.profile != "paper":
        parser.error("--run reads the profile from its config.yaml; omit --profile")
    if args.background_threshold > args.iou_threshold:
        parser.error(
            f"--background-threshold {args.background_threshold:g} must not be above "
            f"--iou-threshold {args.iou_threshold:g}"
        )
    return args
