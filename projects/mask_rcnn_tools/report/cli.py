"""Command line of `tools/report.py`. Standard library only, so that `--help` is fast."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mask_rcnn_tools.common.command_line import CommandParser, number

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


def build_parser() -> CommandParser:
    """Builds the parser."""
    parser = CommandParser("report.py", "[flags]", _DESCRIPTION, _EPILOG)
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
        metavar="FOLDER",
        help="where the report of --records goes: RESULTS.md, plots/ and report.html (default "
        "output/report)",
    )
    add(
        "--html",
        metavar="FILE",
        help="where the HTML page goes instead (default output/report.html)",
    )
    add(
        "--check",
        action="store_true",
        help="write nothing, name the committed files that are not those of the committed records",
    )
    add = parser.add_argument_group("what a run leaves for the report").add_argument
    add(
        "--curves-of",
        nargs="+",
        default=[],
        metavar="RUN",
        help="write curves.json and bootstrap.json of finished runs, from their metrics.json and "
        "result files",
    )
    add(
        "--examples-of",
        nargs="+",
        default=[],
        metavar="RUN",
        help="draw a few examples of finished runs, small",
    )
    add(
        "--count",
        type=number(int, 1, 100),
        default=2,
        metavar="N",
        help="examples a run (default 2)",
    )
    add(
        "--into",
        metavar="FOLDER",
        help="put them beside the runs' collected records in this folder (default: into the runs)",
    )
    return parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line; see :func:`mask_rcnn_tools.train.cli.parse_args`."""
    parser = build_parser()
    args = parser.parse_args(argv)
    of_runs = bool(args.curves_of or args.examples_of)
    if of_runs and (args.records or args.output or args.html or args.check):
        parser.error("--curves-of and --examples-of make no report; give them alone")
    if args.into and not of_runs:
        parser.error(
            "--into is the folder for what --curves-of or --examples-of make; give one of them"
        )
    if args.output and not args.records:
        parser.error("--output needs --records; for the page alone there is --html FILE")
    if args.check and (args.records or args.html):
        parser.error("--check compares the committed files; it takes neither --records nor --html")
    return args
