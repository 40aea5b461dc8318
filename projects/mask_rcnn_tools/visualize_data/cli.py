"""The command line of `tools/visualize_data.py`. Standard library only."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from mask_rcnn_tools.predict.cli import add_config_arguments, number
from mask_rcnn_tools.train.cli import CommandParser, check_overrides

_DESCRIPTION = """\
Draws what a config's loader feeds, after augmentation, or the annotations as they are on disk:
a picture for each image, and a contact sheet.
A config file is Python code and runs with your rights: use only files that you trust."""

_EPILOG = """\
Changes to the config (key=value, +key=value, ~key): train_net.py --help explains them.

examples:
  the first images of a training, with augmentation and targets:
    tools/visualize_data.py --config-file quickstart/mask_rcnn_r18_fpn
  with the proposals that a stage-wise row is trained on:
    tools/visualize_data.py --config-file table2a/r50_c4 --profile mini --proposals 30
  two images of the test data:
    tools/visualize_data.py --config-file table2a/r50_fpn --source test --image-ids 139 285
  annotations of your own, before training on them:
    tools/visualize_data.py --config-file quickstart/mask_rcnn_r18_fpn --source annotations \\
      dataloader.train.dataset.names=mine dataloader.train.dataset.json=mine.json \\
      dataloader.train.dataset.image_root=images"""


def build_parser() -> argparse.ArgumentParser:
    """Builds the parser."""
    parser = CommandParser(
        prog="visualize_data.py",
        usage="visualize_data.py --config-file FILE [flags] [key=value ...]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_config_arguments(
        parser,
        "seed of the training whose order and augmentations are shown; of test images and "
        "annotations, which are chosen (default: train.seed)",
    )
    add = parser.add_argument
    add(
        "--source",
        choices=("train", "test", "annotations"),
        default="train",
        help="what the training loader feeds (default), what the test loader feeds, or the "
        "annotations as they are",
    )
    add(
        "--split",
        choices=("train", "test"),
        default="train",
        help="with --source annotations: whose (default train)",
    )
    add("--count", type=number(int, 1), default=12, metavar="N", help="images (default 12)")
    add("--image-ids", nargs="+", default=[], metavar="ID", help="these images, one sample each")
    add(
        "--iteration",
        type=number(int, 0),
        default=0,
        metavar="I",
        help="with --source train: begin with what this iteration gets (default 0)",
    )
    add(
        "--proposals",
        type=number(int, 1),
        default=0,
        metavar="K",
        help="draw the best K stored proposals of a stage-wise row (default: none)",
    )
    add(
        "--scale",
        type=number(float, 0, 32, above=True),
        default=None,
        metavar="X",
        help="size of pictures by that of the images (default: 1, but small ones are enlarged)",
    )
    add(
        "--color-by",
        choices=("auto", "class", "instance"),
        default="auto",
        help="a colour for each class or each instance (default: class, unless there is only one)",
    )
    add(
        "--output",
        default="data_pictures",
        metavar="FOLDER",
        help="for the pictures and sheet.png (default: data_pictures)",
    )
    return parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line; mistakes are printed and exit with status 2.

    Args:
        argv: arguments without the program's name; None for those of this process.

    Returns:
        One attribute per flag, and `overrides`, a list of texts.
    """
    parser = build_parser()
    args = parser.parse_intermixed_args(sys.argv[1:] if argv is None else list(argv))
    args.overrides += [text for text in args.image_ids if "=" in text or text.startswith("~")]
    args.image_ids = [text for text in args.image_ids if text not in args.overrides]
    check_overrides(parser, args.overrides)
    if args.proposals and args.source == "annotations":
        parser.error("--proposals needs --source train or test: annotations have none")
    if args.iteration and args.source != "train":
        parser.error("--iteration needs --source train")
    return args
