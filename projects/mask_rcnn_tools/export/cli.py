"""The command line of `tools/export.py`. Standard library only: `--help` answers at once."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from mask_rcnn_tools.predict.cli import add_config_arguments, number
from mask_rcnn_tools.train.cli import CommandParser, check_overrides

FORMATS = ("torch_export", "torchscript", "onnx")

_DESCRIPTION = """\
Writes a trained detector as one file that runs without this project and without Detectron2:
torch.export (.pt2) and TorchScript (.ts) with torch and torchvision, ONNX (.onnx) with
onnxruntime. The file is compared with the model before it appears under its name.
A config file is Python code and runs with your rights: use only files that you trust."""

_EPILOG = """\
Exit status: 0 written and equal, 2 a mistake in what was asked for, 3 the file differs from the
model and was not kept.
Changes to the config (key=value, +key=value, ~key) are those that the model was trained with;
train_net.py --help explains them. docs/export.md says what works in which format.

examples:
  the quickstart's model for onnxruntime:
    tools/export.py --config-file quickstart/mask_rcnn_r18_fpn --format onnx --output model.onnx
  a stage-wise model with its RPN, weights of your own, detections from 50 % on:
    tools/export.py --config-file table2a/r50_c4 --checkpoint model_final.pth \\
      --format torchscript --output model.ts model.roi_heads.box_predictor.test_score_thresh=0.5
  what a file says about itself:
    tools/export.py --show model.onnx"""


def build_parser() -> argparse.ArgumentParser:
    """Builds the parser."""
    parser = CommandParser(
        prog="export.py",
        usage="export.py --config-file FILE --format FORMAT --output FILE [flags] [key=value ...]",
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
    made = parser.add_argument_group("what is made").add_argument
    made("--format", choices=FORMATS, required=True, help="of the file")
    made("--output", required=True, metavar="FILE", help="ends in .pt2, .ts or .onnx; is replaced")
    made(
        "--paste-masks",
        action="store_true",
        help="masks of the input image's size in place of probabilities inside the boxes: simpler "
        "to use, slower, 8 bytes a pixel and object in memory",
    )
    compared = parser.add_argument_group("what it is compared on").add_argument
    compared(
        "--images",
        nargs="+",
        default=[],
        metavar="FILE",
        help="images (default: the config's test images, or generated ones where those are not)",
    )
    compared(
        "--num-images",
        type=number(int, 1),
        default=4,
        metavar="N",
        help="how many test images (default 4)",
    )
    return parser


def is_override(text: str) -> bool:
    """Whether a word is a change to the config rather than a file."""
    return not os.path.exists(text) and ("=" in text or text.startswith("~"))


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line; mistakes are printed and exit with status 2.

    Args:
        argv: arguments without the program's name; None for those of this process.

    Returns:
        One attribute per flag, and `overrides`; `show` is a file whose metadata alone is wanted.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    if words[:1] == ["--show"] and len(words) == 2:
        return argparse.Namespace(show=words[1])
    parser = build_parser()
    args = parser.parse_intermixed_args(words)
    for text in [t for t in args.images if is_override(t)]:
        args.images.remove(text)  # `--images a.jpg key=value`
        args.overrides.append(text)
    check_overrides(parser, args.overrides)
    args.show = None
    return args
