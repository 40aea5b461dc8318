"""Command line of `tools/check_data.py`. Standard library only, so that `--help` is fast."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mask_rcnn_tools.common.command_line import (
    CONFIG_CODE_WARNING,
    CommandParser,
    add_config_arguments,
    check_overrides,
    number,
)

_DESCRIPTION = f"""\
Checks the training and test data of a config, as train_net.py would read it, or one COCO json with
its images, named by the keys of a config: json and image_root. Reports what is wrong, where, and
how to fix it.
{CONFIG_CODE_WARNING}"""

_EPILOG = """\
exit status: 0 nothing found at the level of --fail-on or above; 1 something found; 2 the command
line or the config cannot be used.

examples:
  the data of a row before it is trained for days:
    tools/check_data.py --config-file configs/table2a/r50_fpn.py
  your own json, thoroughly:
    tools/check_data.py json=train.json image_root=images/ --decode --hash
  the same, as the quickstart would train and test on it:
    tools/check_data.py --config-file configs/quickstart/mask_rcnn_r18_fpn.py \\
      dataloader.train.dataset.names=mine_train dataloader.train.dataset.json=train.json \\
      dataloader.train.dataset.image_root=images dataloader.test.dataset.names=mine_val \\
      dataloader.test.dataset.json=val.json dataloader.test.dataset.image_root=images
  in CI, machine-readable:
    tools/check_data.py json=train.json image_root=images/ --fail-on warning --json"""


def build_parser() -> CommandParser:
    """Builds the parser."""
    parser = CommandParser(
        "check_data.py",
        "(--config-file FILE [key=value +key=value ~key ...] | json=FILE image_root=FOLDER) "
        "[flags]",
        _DESCRIPTION,
        _EPILOG,
    )
    add_config_arguments(
        parser,
        profile="scale of the run, which selects the data (default paper)",
        seed="seed of the run, as for train_net.py",
        required=False,
    )
    add = parser.add_argument_group("data without a config").add_argument
    add("--annotations", metavar="FILE", help="a COCO json; the same as json=FILE")
    add(
        "--images",
        metavar="FOLDER",
        help="directory of its images; the same as image_root=FOLDER",
    )
    add = parser.add_argument_group("checks").add_argument
    add("--no-images", action="store_true", help="check the annotations only")
    add(
        "--sample",
        type=number(int, 1),
        metavar="N",
        help="open N evenly spaced images of each data set (default: all)",
    )
    add("--decode", action="store_true", help="decode every image, as training does (slow)")
    add(
        "--hash",
        action="store_true",
        help="compare image contents: duplicates under other names, and between train and test",
    )
    add(
        "--threads",
        type=number(int, 1),
        metavar="N",
        help="number of threads that open images (default: two per CPU, at most 16)",
    )
    add = parser.add_argument_group("report").add_argument
    add("--json", action="store_true", help="print the report as json, and nothing else")
    add("--all-classes", action="store_true", help="list every class with its count")
    add(
        "--fail-on",
        choices=("error", "warning", "note", "never"),
        default="error",
        help="lowest level that gives exit status 1 (default error)",
    )
    return parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line; see :func:`mask_rcnn_tools.train.cli.parse_args`."""
    parser = build_parser()
    args = parser.parse_intermixed_args(argv)
    check_overrides(parser, args.overrides, config_given=bool(args.config_file))
    if not args.config_file:
        _take_data_keys(parser, args)
    by_json = args.annotations is not None, args.images is not None
    if bool(args.config_file) == any(by_json) or any(by_json) != all(by_json):
        parser.error("give either --config-file FILE, or json=FILE and image_root=FOLDER")
    if args.no_images and (args.decode or args.hash or args.sample):
        parser.error("--no-images opens no image: --decode, --hash and --sample need them")
    return args


_DATA_KEYS = {"json": "annotations", "image_root": "images"}
"""Keys of a config's `dataset` that name data without a config, and the equivalent flags."""


def _take_data_keys(parser: CommandParser, args: argparse.Namespace) -> None:
    """Moves `json=FILE` and `image_root=FOLDER` from the overrides to the flags."""
    for text in args.overrides:
        key, _, value = text.partition("=")
        flag = _DATA_KEYS.get(key)
        if flag is None:
            parser.error(
                f"{text!r} overrides a config, but there is no --config-file; without one, give "
                "json=FILE and image_root=FOLDER"
            )
        if getattr(args, flag) is not None:
            parser.error(f"{text!r} and --{flag} {getattr(args, flag)} name the same; give one")
        setattr(args, flag, value)
    args.overrides = []
