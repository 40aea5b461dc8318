"""Command line of `tools/visualize_data.py`. Standard library only, so that `--help` is fast."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mask_rcnn_tools.common.command_line import (
    CONFIG_CODE_WARNING,
    CommandParser,
    add_config_arguments,
    add_drawing_arguments,
    check_overrides,
    number,
    split_overrides,
)

_DESCRIPTION = f"""\
Draws what a config's data loader yields after augmentation, or the annotations as they are on
disk: one picture per image, and a contact sheet.
{CONFIG_CODE_WARNING}"""

_EPILOG = """\
`train_net.py --help` explains overrides (key=value, +key=value, ~key).

examples:
  the first images of a training, with augmentation and targets:
    tools/visualize_data.py --config-file quickstart/mask_rcnn_r18_fpn
  with the proposals that a stage-wise row is trained on:
    tools/visualize_data.py --config-file table2a/r50_c4 --profile mini --proposals 30
  two images of the test data:
    tools/visualize_data.py --config-file table2a/r50_fpn --source test --image-ids 139 285
  your own annotations, before training on them:
    tools/visualize_data.py --config-file quickstart/mask_rcnn_r18_fpn --source annotations \\
      dataloader.train.dataset.names=mine dataloader.train.dataset.json=mine.json \\
      dataloader.train.dataset.image_root=images"""


def build_parser() -> CommandParser:
    """Builds the parser."""
    parser = CommandParser(
        "visualize_data.py", "--config-file FILE [flags] [key=value ...]", _DESCRIPTION, _EPILOG
    )
    add_config_arguments(
        parser,
        seed="seed of the training whose order and augmentations are drawn; for test images and "
        "annotations, seed of their choice (default: train.seed)",
    )
    add = parser.add_argument
    add(
        "--source",
        choices=("train", "test", "annotations"),
        default="train",
        help="output of the training loader (default) or of the test loader, or the annotations "
        "as they are",
    )
    add(
        "--split",
        choices=("train", "test"),
        default="train",
        help="with --source annotations: whose annotations (default train)",
    )
    add(
        "--count",
        type=number(int, 1),
        default=12,
        metavar="N",
        help="number of images (default 12)",
    )
    add("--image-ids", nargs="+", default=[], metavar="ID", help="these images, one sample each")
    add(
        "--iteration",
        type=number(int, 0),
        default=0,
        metavar="I",
        help="with --source train: first iteration to draw (default 0)",
    )
    add(
        "--proposals",
        type=number(int, 1),
        default=0,
        metavar="K",
        help="draw the best K stored proposals of a stage-wise row (default: none)",
    )
    add_drawing_arguments(parser)
    add(
        "--output",
        default="data_pictures",
        metavar="FOLDER",
        help="directory of the pictures and of sheet.png (default: data_pictures)",
    )
    return parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line; see :func:`mask_rcnn_tools.train.cli.parse_args`."""
    parser = build_parser()
    args = parser.parse_intermixed_args(argv)
    args.image_ids, overrides = split_overrides(args.image_ids)
    args.overrides += overrides
    check_overrides(parser, args.overrides)
    if args.proposals and args.source == "annotations":
        parser.error("--proposals needs --source train or test: annotations have none")
    if args.iteration and args.source != "train":
        parser.error("--iteration needs --source train")
    return args
