"""The command line of `tools/predict.py`. Standard library only: `--help` answers at once."""

from __future__ import annotations

import argparse
import glob
import math
import os
import sys
from collections.abc import Callable, Sequence

from mask_rcnn_tools.train.cli import PROFILES, CommandParser, check_overrides

_DESCRIPTION = """\
Runs a trained model over images and videos: draws what it finds, and writes it as COCO json.
Files that cannot be read are reported and passed over; the exit status is 1 then.
A config file is Python code and runs with your rights: use only files that you trust."""

_EPILOG = """\
Changes to the config (key=value, +key=value, ~key) are those that the model was trained with;
train_net.py --help explains them.

examples:
  a folder, with the model that the quickstart trained:
    tools/predict.py --config-file quickstart/mask_rcnn_r18_fpn --input photos/
  weights of your own, several images and a pattern, objects from 70 % on:
    tools/predict.py --config-file table2a/r50_fpn --checkpoint model_final.pth \\
      --input a.jpg b.png 'more/*.jpg' --threshold 0.7
  a video, every second frame, without json:
    tools/predict.py --config-file table2a/r50_fpn --input clip.mp4 --every 2 --no-json
  the first camera, until Ctrl-C:
    tools/predict.py --config-file table2a/r50_fpn --webcam 0"""


def number(
    kind: type[int] | type[float], least: float, most: float = math.inf, above: bool = False
) -> Callable[[str], float]:
    """A type for argparse: a finite number within limits; `above`: larger than `least`."""

    def parsed(text: str) -> float:
        value = kind(text)
        low = value <= least if above else value < least
        if not math.isfinite(value) or low or value > most:
            limit = f"above {least}" if above else f"at least {least}"
            limit += "" if math.isinf(most) else f" and at most {most}"
            raise argparse.ArgumentTypeError(f"must be {limit}, got {text}")
        return value

    parsed.__name__ = kind.__name__  # "invalid int value"
    return parsed


def add_config_arguments(parser: argparse.ArgumentParser, of_run: str) -> None:
    """Adds the arguments that choose and change a config.

    Args:
        parser: Of the command line.
        of_run: What the seed is for.
    """
    add = parser.add_argument
    add(
        "--config-file",
        required=True,
        metavar="FILE",
        help="a .py file, a saved config.yaml, or an id such as table2a/r50_fpn",
    )
    add(
        "--profile",
        choices=PROFILES,
        default="paper",
        help="scale of the config (default paper)",
    )
    add("--seed", type=number(int, 0, 2**32 - 1), default=None, metavar="S", help=of_run)
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="changes to the config, see below"
    )


def build_parser() -> argparse.ArgumentParser:
    """Builds the parser."""
    parser = CommandParser(
        prog="predict.py",
        usage="predict.py --config-file FILE --input PATH ... [flags] [key=value ...]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_config_arguments(parser, "seed of the run whose weights are used")
    model = parser.add_argument_group("the model").add_argument
    model(
        "--checkpoint",
        default=None,
        metavar="FILE",
        help="its weights (default: the last ones of this config's own run)",
    )
    model(
        "--rpn-checkpoint",
        default=None,
        metavar="FILE",
        help="weights of the RPN of a stage-wise model (default: those of the RPN's own run)",
    )
    model("--tta", action="store_true", help="test-time augmentation, as train.tta says")
    model("--device", default=None, metavar="D", help="cpu, cuda or cuda:1 (default: train.device)")
    model(
        "--batch-size",
        type=number(int, 1),
        default=1,
        metavar="N",
        help="images that go through the model together (default 1)",
    )
    what = parser.add_argument_group("what is looked at").add_argument
    what(
        "--input",
        nargs="+",
        default=[],
        metavar="PATH",
        help="images, videos, folders (with all folders in them), patterns in quotes",
    )
    what("--webcam", type=number(int, 0), default=None, metavar="N", help="read camera N, from 0")
    what(
        "--every",
        type=number(int, 1),
        default=1,
        metavar="N",
        help="of videos every N-th frame (default 1)",
    )
    what(
        "--max-frames",
        type=number(int, 1),
        default=None,
        metavar="N",
        help="of videos and cameras no more than N frames",
    )
    results = parser.add_argument_group("what is made").add_argument
    results(
        "--output",
        default="predictions",
        metavar="FOLDER",
        help="for all results (default: predictions); files of the same names are replaced",
    )
    results("--no-pictures", action="store_true", help="draw nothing")
    results("--no-json", action="store_true", help="write no predictions.json")
    results(
        "--threshold",
        type=number(float, 0, 1),
        default=None,
        metavar="S",
        help="least score that is drawn (default 0.5; proposals: 0). The json holds all that the "
        "model gives: from model.roi_heads.box_predictor.test_score_thresh on",
    )
    results(
        "--top-k",
        type=number(int, 1),
        default=None,
        metavar="K",
        help="most objects drawn on a picture (default: all; proposals: 20)",
    )
    results(
        "--keypoint-threshold",
        type=number(float, 0),
        default=0.05,
        metavar="S",
        help="least score of keypoints that are drawn (default 0.05)",
    )
    results(
        "--scale",
        type=number(float, 0, 32, above=True),
        default=None,
        metavar="X",
        help="size of pictures and videos by that of their originals (default: 1, but small ones "
        "are enlarged until labels can be read)",
    )
    results(
        "--color-by",
        choices=("auto", "class", "instance"),
        default="auto",
        help="a colour for each class or each instance (default: class, unless there is only one)",
    )
    return parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line; mistakes are printed and exit with status 2.

    Changes to the config that follow the inputs are told from these: they hold a ``=`` or begin
    with ``~``, and no file is called so.

    Args:
        argv: arguments without the program's name; None for those of this process.

    Returns:
        One attribute per flag, `input` and `overrides`, lists of texts.
    """
    parser = build_parser()
    args = parser.parse_intermixed_args(sys.argv[1:] if argv is None else list(argv))
    inputs = args.input
    args.input = [text for text in inputs if not _is_override(text)]
    args.overrides += [text for text in inputs if _is_override(text)]
    check_overrides(parser, args.overrides)
    if not args.input and args.webcam is None:
        parser.error("give --input PATH ..., or --webcam 0 for the first camera")
    if args.no_pictures and args.no_json:
        parser.error("--no-pictures and --no-json together leave nothing to do")
    if args.tta:
        args.overrides.append("train.tta.enabled=true")
    if args.device is not None:
        args.overrides.append(f"train.device={args.device}")
    return args


def _is_override(text: str) -> bool:
    if os.path.lexists(text) or glob.has_magic(text):
        return False
    return ("=" in text and "/" not in text.partition("=")[0]) or (
        text.startswith("~") and not text.startswith("~/") and text != "~"
    )
