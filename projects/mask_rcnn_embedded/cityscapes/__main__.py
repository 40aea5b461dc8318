"""``python -m mask_rcnn_embedded.cityscapes``: make, measure and show the data set."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys

from mask_rcnn_embedded.cityscapes import (
    FULL_SPEC,
    SPLITS,
    TINY_SPEC,
    ensure_generated,
    generate,
)
from mask_rcnn_embedded.cityscapes.sheet import write_sheet
from mask_rcnn_embedded.cityscapes.stats import format_stats
from mask_rcnn_embedded.errors import UserError


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m mask_rcnn_embedded.cityscapes",
        description="Make the embedded Cityscapes data set (by default in the cache) and print "
        "its folder.",
    )
    parser.add_argument("--root", help="write to this new folder instead of the cache")
    parser.add_argument("--tiny", action="store_true", help="the small data set of the tests")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another data set")
    parser.add_argument("--workers", type=int, help="processes; default: by the number of cores")
    parser.add_argument("--stats", action="store_true", help="print counts and sizes")
    parser.add_argument(
        "--sheet", metavar="FILE", help="write a contact sheet (.png, .jpg), no data"
    )
    parser.add_argument("--split", choices=SPLITS, default="val", help="split of the sheet")
    parser.add_argument("--start", type=int, default=0, help="first picture of the sheet")
    parser.add_argument("--count", type=int, default=8, help="number of pictures of the sheet")
    parser.add_argument("--plain", action="store_true", help="sheet without annotations")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit status (2: the arguments or the disk are at fault)."""
    args = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        spec = dataclasses.replace(TINY_SPEC if args.tiny else FULL_SPEC, seed=args.seed)
        if args.sheet:
            print(write_sheet(args.sheet, spec, args.split, args.count, args.start, not args.plain))
            return 0
        if args.root:
            root = generate(args.root, spec, args.workers)
        else:
            root = ensure_generated(spec, args.workers)
        print(root)
        if args.stats:
            print(format_stats(root))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
