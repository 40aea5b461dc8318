"""The command line of `tools/model_info.py`. Standard library only: `--help` answers at once."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from mask_rcnn_tools.train.cli import PROFILES, CommandParser, check_overrides

_DESCRIPTION = """\
Parameters and FLOPs of models by part: backbone, FPN, RPN, box, mask and keypoint branches; of
several configs side by side. No weights and no data are needed.
FLOPs are multiply-adds (fvcore's count) of one image at a given size with a given number of
proposals and detections; what is not counted is named.
A config file is Python code and runs with your rights: use only files that you trust."""

_EPILOG = """\
examples:
  a row, with the RPN on whose proposals it is trained:
    tools/model_info.py table2a/r50_fpn
  two rows side by side, the detectors alone, on COCO's largest images:
    tools/model_info.py table2a/r50_fpn table2a/r50_c4 --alone --image-size 800 1333
  a change to a config, at another scale, as JSON:
    tools/model_info.py --config-file table2a/r50_fpn --profile mini --json \\
      model.roi_heads.mask_head.conv_dim=64"""


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return value


def build_parser() -> argparse.ArgumentParser:
    """Builds the parser."""
    parser = CommandParser(
        prog="model_info.py",
        usage="model_info.py FILE [FILE ...] [flags] [key=value +key=value ~key ...]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
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
        type=_count,
        nargs=2,
        default=None,
        metavar=("H", "W"),
        help="of the network's input, before padding (default: an image of 3:4 as the config "
        "resizes it for testing)",
    )
    add(
        "--proposals",
        type=_count,
        default=None,
        metavar="N",
        help="an image, that the box branch sees (default: the config's number at test)",
    )
    add(
        "--detections",
        type=_count,
        default=None,
        metavar="N",
        help="an image, that the mask and keypoint branches see (default: the config's limit)",
    )
    add(
        "--alone",
        action="store_true",
        help="of a stage-wise row the detector without the RPN that proposes for it",
    )
    add("--json", action="store_true", help="print JSON")
    add(
        "configs",
        nargs="*",
        metavar="FILE",
        help="configs: .py files, saved config.yaml, or ids; and changes (key=value) to all",
    )
    return parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line; mistakes are printed and exit with status 2.

    Args:
        argv: arguments without the program's name; None for those of this process.

    Returns:
        One attribute per flag, `configs` (at least one) and `overrides`.
    """
    parser = build_parser()
    args = parser.parse_intermixed_args(sys.argv[1:] if argv is None else list(argv))
    given = args.configs
    args.overrides = [text for text in given if _is_change(text)]
    args.configs = [*args.config_file, *(text for text in given if not _is_change(text))]
    check_overrides(parser, args.overrides)
    if not args.configs:
        parser.error("no config is given, such as configs/table2a/r50_fpn.py or table2a/r50_fpn")
    return args


def _is_change(text: str) -> bool:
    return "=" in text or (text.startswith("~") and not text.startswith("~/"))
