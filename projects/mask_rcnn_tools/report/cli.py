"""The command line of `tools/report.py`. Standard library only: `--help` answers at once."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from mask_rcnn_tools.train.cli import CommandParser

_DESCRIPTION = """\
Makes tables, plots and one self-contained HTML page from result records. Without flags: of the
records that are committed in results/, whose tables and plots are committed, too (RESULTS.md,
results/README.md, docs/report/); the page goes to output/report.html."""

_EPILOG = """\
examples:
  everything that is made from the committed records, and the page:
    tools/report.py
  a report of one's own runs, as they lie in output/, beside the committed ones:
    tools/report.py --records results output --output output/report
  whether the committed tables and plots are those of the committed records (exit status 1: not):
    tools/report.py --check
  curves of a run that was made before runs wrote them; beside its committed record:
    tools/report.py --curves-of output/table2c/roi_align_ave@mini/seed0 --into results
  drawn examples of a run, to be committed:
    tools/report.py --examples-of output/table2c/roi_align_ave@mini/seed0 --into results"""


def _count(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 100:
        raise argparse.ArgumentTypeError(f"must be from 1 to 100, got {value}")
    return value


def build_parser() -> argparse.ArgumentParser:
    """Builds the parser."""
    parser = CommandParser(
        prog="report.py",
        usage="report.py [flags]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--records",
        nargs="+",
        default=[],
        metavar="FOLDER",
        help="folders of runs (such as output) or of collected records (results); what is made "
        "goes to --output",
    )
    add(
        "--output",
        default=None,
        metavar="FOLDER",
        help="where the report of --records goes: RESULTS.md, plots/ and report.html (default "
        "output/report)",
    )
    add(
        "--html",
        default=None,
        metavar="FILE",
        help="where the HTML page goes instead (default output/report.html)",
    )
    add(
        "--check",
        action="store_true",
        help="write nothing, name the committed files that are not those of the committed records",
    )
    runs = parser.add_argument_group("what a run leaves for the report")
    add = runs.add_argument
    add(
        "--curves-of",
        nargs="+",
        default=[],
        metavar="RUN",
        help="write curves.json of finished runs, from their metrics.json and result files",
    )
    add(
        "--examples-of",
        nargs="+",
        default=[],
        metavar="RUN",
        help="draw a few examples of finished runs, small",
    )
    add("--count", type=_count, default=2, metavar="N", help="examples a run (default 2)")
    add(
        "--into",
        default=None,
        metavar="FOLDER",
        help="put them beside the runs' collected records in this folder (default: into the runs)",
    )
    return parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line; mistakes are printed and exit with status 2.

    Args:
        argv: arguments without the program's name; None for those of this process.
    """
    parser = build_parser()
    args = parser.parse_args(sys.argv[1:] if argv is None else list(argv))
    of_runs = bool(args.curves_of or args.examples_of)
    if of_runs and (args.records or args.output or args.html or args.check):
        parser.error("--curves-of and --examples-of make no report; give them alone")
    if args.into and not of_runs:
        parser.error("--into says where --curves-of or --examples-of put what they make")
    if args.output and not args.records:
        parser.error("--output needs --records; for the page alone there is --html FILE")
    if args.check and (args.records or args.html):
        parser.error("--check compares the committed files; it takes neither --records nor --html")
    return args
