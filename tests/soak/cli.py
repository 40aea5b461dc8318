"""The command line of `tests/soak`. Standard library only."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mask_rcnn_tools.common.command_line import PROFILES, CommandParser, check_overrides

_DESCRIPTION = """\
Trains a config once undisturbed, then again and again while faults are caused on purpose: the
process or its data-loading workers are killed, signals stop it, checkpoints are damaged, writing
fails. Each time it is resumed. In the end weights, optimizer, metrics and detections must equal
those of the undisturbed run, bit for bit. CPU only, where that is promised."""

_EPILOG = """\
exit status: 0 if nothing was lost, 1 if something was, 2 for a mistake on the command line

example:
  python tests/soak --minutes 30"""


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line; mistakes are printed and exit with status 2."""
    parser = CommandParser(
        "tests/soak", "[flags] [key=value +key=value ~key ...]", _DESCRIPTION, _EPILOG
    )
    add = parser.add_argument
    add(
        "--config-file",
        default="quickstart/mask_rcnn_r18_fpn",
        metavar="FILE",
        help="what to train (default: the quickstart)",
    )
    add("--profile", choices=PROFILES, default="mini", help="its scale (default: mini)")
    add(
        "--minutes",
        type=float,
        default=30.0,
        metavar="M",
        help="disturbed training begins new rounds until so many minutes have passed (default 30; "
        "a round begun is finished, and the undisturbed run comes on top)",
    )
    add("--iterations", type=int, default=400, metavar="N", help="of a round (default 400)")
    add("--period", type=int, default=20, metavar="P", help="of checkpoints (default 20)")
    add("--seed", type=int, default=0, metavar="S", help="of the choice of faults (default 0)")
    add("--output", default="output/soak", metavar="FOLDER", help="default: output/soak")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the config")
    args = parser.parse_intermixed_args(argv)
    check_overrides(parser, args.overrides)
    if args.minutes < 0 or args.iterations < 2 or args.period < 1:
        parser.error("--minutes must be at least 0, --iterations at least 2, --period at least 1")
    return args
