"""The command line of all data sets: make, measure and show."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
from typing import Any

from mask_rcnn_embedded.data_set import DataSet
from mask_rcnn_embedded.errors import UserError


def build_parser(data_set: DataSet[Any]) -> argparse.ArgumentParser:
    """The arguments."""
    title, splits, count = data_set.full.TITLE, data_set.full.SPLITS, data_set.sheet_count
    parser = argparse.ArgumentParser(
        prog=f"python -m {data_set.package}",
        description=f"Make the {title}, by default in the cache, and print its directory.",
    )
    add = parser.add_argument
    add("--root", help="write to this new directory instead of the cache")
    add("--tiny", action="store_true", help="the small data set of the tests")
    add("--seed", type=int, default=0, help="seed of all pictures (default: 0)")
    add("--workers", type=int, help="number of processes (default: by the number of cores)")
    add("--stats", action="store_true", help="print counts and sizes")
    add("--sheet", metavar="FILE", help="write only a contact sheet (.png, .jpg), no data")
    add("--split", choices=splits, default="val", help="split of the sheet (default: val)")
    add("--start", type=int, default=0, help="first picture of the sheet (default: 0)")
    add("--count", type=int, default=count, help=f"pictures on the sheet (default: {count})")
    add("--plain", action="store_true", help="sheet without annotations")
    return parser


def main(data_set: DataSet[Any], argv: list[str] | None = None) -> int:
    """Runs the command.

    Returns:
        The exit status: 2 if the arguments or the disk are at fault.
    """
    args = build_parser(data_set).parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        spec = dataclasses.replace(data_set.tiny if args.tiny else data_set.full, seed=args.seed)
        if args.sheet:
            shown = (args.split, args.count, args.start, not args.plain)
            print(data_set.write_sheet(args.sheet, spec, *shown))
            return 0
        if args.root:
            root = data_set.generate(args.root, spec, args.workers)
        else:
            root = data_set.ensure_generated(spec, args.workers)
        print(root)
        if args.stats:
            print(data_set.format_stats(root))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
