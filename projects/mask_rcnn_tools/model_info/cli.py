"""Command line of `tools/model_info.py`. Standard library only, so that `--help` is fast."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mask_rcnn_tools.common.command_line import (
    CONFIG_CODE_WARNING,
    PROFILES,
    CommandParser,
    check_overrides,
    number,
    split_overrides,
)

_DESCRIPTION = f"""\
Prints parameters and FLOPs of models by part (backbone, FPN, RPN, box, mask and keypoint
branches), for several configs side by side. Needs no weights and no data.
FLOPs are multiply-adds (counted by fvcore) for one image of a given size with a given number of
proposals and detections. Operators that are not counted are listed.
{CONFIG_CODE_WARNING}"""

_EPILOG = """\
examples:
  a row, with the RPN whose proposals it is trained on:
    tools/model_info.py table2a/r50_fpn
  two rows side by side, the detectors alone, on COCO's largest images:
    tools/model_info.py table2a/r50_fpn table2a/r50_c4 --alone --image-size 800 1333
  an override of a config, at another scale, as JSON:
    tools/model_info.py --config-file table2a/r50_fpn --profile mini --json \\
      model.roi_heads.mask_head.conv_dim=64"""


def build_parser() -> CommandParser:
    """Builds the parser."""
    parser = CommandParser(
        "model_info.py",
        "FILE [FILE ...] [flags] [key=value +key=value ~key ...]",
        _DESCRIPTION,
        _EPILOG,
    )
    add = parser.add_argument
    add(
        "--config-file",
        action="append",
        default=[],
        metavar="FILE",
        help="a config, as with the other commands; the same as FILE without the flag",
    )
    add("--profile", choices=PROFILES, default="paper", help="scale (default paper)")
    add(
        "--image-size",
        type=number(int, 1),
        nargs=2,
        metavar=("H", "W"),
        help="size of the network's input, before padding (default: an image of 3:4 as the config "
        "resizes it for testing)",
    )
    add(
        "--proposals",
        type=number(int, 1),
        metavar="N",
        help="proposals per image for the box branch (default: the config's number at test)",
    )
    add(
        "--detections",
        type=number(int, 1),
        metavar="N",
        help="detections per image for the mask and keypoint branches (default: the config's "
        "limit)",
    )
    add(
        "--alone",
        action="store_true",
        help="for a stage-wise row: the detector without the RPN that proposes for it",
    )
    add("--json", action="store_true", help="print JSON")
    add(
        "configs",
        nargs="*",
        metavar="FILE",
        help="configs: .py files, saved config.yaml, or ids; and overrides (key=value) of all",
    )
    return parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line; see :func:`mask_rcnn_tools.train.cli.parse_args`.

    Returns:
        One attribute per flag, `configs` (at least one) and `overrides`.
    """
    parser = build_parser()
    args = parser.parse_intermixed_args(argv)
    configs, args.overrides = split_overrides(args.configs)
    args.configs = args.config_file + configs
    check_overrides(parser, args.overrides)
    if not args.configs:
        parser.error("no config is given, such as configs/table2a/r50_fpn.py or table2a/r50_fpn")
    return args
