"""Command line of `tools/export.py`. Standard library only, so that `--help` is fast."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from mask_rcnn_tools.common.command_line import (
    CONFIG_CODE_WARNING,
    OVERRIDES_OF_TRAINING,
    CommandParser,
    add_checkpoint_arguments,
    add_config_arguments,
    check_overrides,
    number,
    split_overrides,
)

FORMATS = ("torch_export", "torchscript", "onnx")

_DESCRIPTION = f"""\
Writes a trained detector as one file that runs without this project and without Detectron2:
torch.export (.pt2) and TorchScript (.ts) with torch and torchvision, ONNX (.onnx) with
onnxruntime. The file appears only if its outputs equal those of the model.
{CONFIG_CODE_WARNING}"""

_EPILOG = f"""\
exit status: 0 written and equal; 2 a mistake in the command line, the config or the weights; 3 the
outputs differ and the file was not kept.
{OVERRIDES_OF_TRAINING} docs/export.md lists what each format supports.

examples:
  the quickstart's model for onnxruntime:
    tools/export.py --config-file quickstart/mask_rcnn_r18_fpn --format onnx --output model.onnx
  a stage-wise model with its RPN, your own checkpoint, detections with a score of at least 0.5:
    tools/export.py --config-file table2a/r50_c4 --checkpoint model_final.pth \\
      --format torchscript --output model.ts model.roi_heads.box_predictor.test_score_thresh=0.5
  the metadata of a file:
    tools/export.py --show model.onnx"""


def build_parser() -> CommandParser:
    """Builds the parser."""
    parser = CommandParser(
        "export.py",
        "--config-file FILE --format FORMAT --output FILE [flags] [key=value ...]",
        _DESCRIPTION,
        _EPILOG,
    )
    add_config_arguments(parser, seed="seed of the run whose weights are used")
    add_checkpoint_arguments(parser.add_argument_group("model"))
    add = parser.add_argument_group("output").add_argument
    add("--format", choices=FORMATS, required=True, help="format of the file")
    add(
        "--output",
        required=True,
        metavar="FILE",
        help="ends in .pt2, .ts or .onnx; an existing file is replaced",
    )
    add(
        "--paste-masks",
        action="store_true",
        help="output masks of the size of the input image instead of probabilities inside the "
        "boxes: simpler to use, slower, 8 bytes of memory per pixel and object",
    )
    add = parser.add_argument_group("comparison").add_argument
    add(
        "--images",
        nargs="+",
        default=[],
        metavar="FILE",
        help="images to compare on (default: the config's test images, or generated ones if those "
        "are missing)",
    )
    add(
        "--num-images",
        type=number(int, 1),
        default=4,
        metavar="N",
        help="number of test images (default 4)",
    )
    return parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line; see :func:`mask_rcnn_tools.train.cli.parse_args`.

    Returns:
        One attribute per flag, and `overrides`. With `--show FILE`, only `show`.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    if words[:1] == ["--show"] and len(words) == 2:
        return argparse.Namespace(show=words[1])
    parser = build_parser()
    args = parser.parse_intermixed_args(words)
    args.images, overrides = split_overrides(args.images)
    args.overrides += overrides
    check_overrides(parser, args.overrides)
    args.show = None
    return args
