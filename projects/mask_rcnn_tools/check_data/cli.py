"""The command line of `tools/check_data.py`. Standard library only: `--help` answers at once."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from mask_rcnn_tools.train.cli import PROFILES, CommandParser, check_overrides

_DESCRIPTION = """\
Checks the training and test data of a config, as train_net.py would take it, or one COCO json with
its images, and says what is wrong with it, where, and how to mend it.
A config file is Python code and runs with your rights: use only files that you trust."""

_EPILOG = """\
exit status: 0 nothing found at the level of --fail-on or above; 1 something found; 2 the command
line or the config cannot be used.

examples:
  a row's data before it is trained for days:
    tools/check_data.py --config-file configs/table2a/r50_fpn.py
  a json of your own, thoroughly:
    tools/check_data.py --annotations train.json --images images/ --decode --hash
  the same, as the quickstart would train and test on it:
    tools/check_data.py --config-file configs/quickstart/mask_rcnn_r18_fpn.py \\
      dataloader.train.dataset.names=mine_train dataloader.train.dataset.json=train.json \\
      dataloader.train.dataset.image_root=images dataloader.test.dataset.names=mine_val \\
      dataloader.test.dataset.json=val.json dataloader.test.dataset.image_root=images
  in CI, for a machine to read:
    tools/check_data.py --annotations train.json --images images/ --fail-on warning --json"""


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def build_parser() -> argparse.ArgumentParser:
    """Builds the parser."""
    parser = CommandParser(
        prog="check_data.py",
        usage="check_data.py (--config-file FILE | --annotations FILE --images FOLDER) [flags] "
        "[key=value +key=value ~key ...]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    what = parser.add_argument_group("what to check")
    add = what.add_argument
    add("--config-file", default="", metavar="FILE", help="a .py file, a config.yaml, or an id")
    add(
        "--profile",
        choices=PROFILES,
        default="paper",
        help="scale of the run, which chooses the data (default paper)",
    )
    add("--seed", type=int, default=None, metavar="S", help="as for train_net.py")
    add("--annotations", default=None, metavar="FILE", help="a COCO json, without any config")
    add("--images", default=None, metavar="FOLDER", help="its images")
    how = parser.add_argument_group("how thoroughly")
    add = how.add_argument
    add("--no-images", action="store_true", help="look at the annotations alone")
    add(
        "--sample",
        type=_count,
        default=None,
        metavar="N",
        help="open N images of each data set, evenly chosen (default: all)",
    )
    add("--decode", action="store_true", help="decode every image, as training does (slow)")
    add(
        "--hash",
        action="store_true",
        help="compare the images' contents: copies under other names, and between train and test",
    )
    add(
        "--threads",
        type=_count,
        default=None,
        metavar="N",
        help="images opened at once (default: two a CPU, at most 16)",
    )
    result = parser.add_argument_group("what is reported")
    add = result.add_argument
    add("--json", action="store_true", help="print the report as json, and nothing else")
    add("--all-classes", action="store_true", help="list every class with its count")
    add(
        "--fail-on",
        choices=("error", "warning", "note", "never"),
        default="error",
        help="lowest level that gives exit status 1 (default error)",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="changes to the config; train_net.py --help explains them",
    )
    return parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line; mistakes are printed and exit with status 2.

    Args:
        argv: arguments without the program's name; None for those of this process.
    """
    parser = build_parser()
    args = parser.parse_intermixed_args(sys.argv[1:] if argv is None else list(argv))
    check_overrides(parser, args.overrides, config_given=bool(args.config_file))
    by_json = args.annotations is not None, args.images is not None
    if bool(args.config_file) == any(by_json) or any(by_json) != all(by_json):
        parser.error(
            "give --config-file FILE, or --annotations FILE and --images FOLDER, and not both"
        )
    if any(by_json) and args.overrides:
        parser.error(f"{args.overrides[0]!r} changes a config, but there is no --config-file")
    if args.no_images and (args.decode or args.hash or args.sample):
        parser.error("--no-images opens no image: --decode, --hash and --sample need them")
    return args
