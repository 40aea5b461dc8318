"""What `tools/report.py` does after parsing."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from mask_rcnn_repro.engine.run import RECORD_FILE
from mask_rcnn_repro.errors import RecordError
from mask_rcnn_repro.records.curves import CURVES_FILE, save_curves
from mask_rcnn_repro.records.record import Record, load_record
from mask_rcnn_repro.utils.atomic import atomic_write_text
from mask_rcnn_tools.common.command_line import run_command
from mask_rcnn_tools.evidence.image_bootstrap import (
    BOOTSTRAP_FILE,
    bootstrap_of_run,
    save_bootstrap,
)
from mask_rcnn_tools.report.examples import make_examples
from mask_rcnn_tools.report.figures import Report
from mask_rcnn_tools.report.files import (
    checkout_root,
    load_report,
    report_files,
    write,
    write_files,
)
from mask_rcnn_tools.report.markdown import COMMAND, format_results_page
from mask_rcnn_tools.report.page import format_html_page
from mask_rcnn_tools.report.run_curves import RESULTS_FOLDER, curves_of_run
from mask_rcnn_tools.report.runs import (
    bootstrap_file,
    curves_file,
    examples_folder,
    key_of,
    record_file,
)
from mask_rcnn_tools.report.scales import counting_records

_PAGE = Path("output", "report.html")
_OUTPUT = Path("output", "report")


def main(args: argparse.Namespace) -> None:
    """Runs a parsed command line and exits; see :func:`run_command`."""
    run_command(run, args)


def run(args: argparse.Namespace) -> int:
    """Runs a parsed command line.

    Returns:
        1 where `--check` found something stale, else 0.
    """
    if args.curves_of or args.examples_of:
        _add_to_runs(args)
        return 0
    if args.records:
        _write_own_report(args)
        return 0
    root = checkout_root()
    report = load_report([root / "results"])
    stale = write_files(root, report_files(root, report), args.check, COMMAND)
    if not args.check:
        write(Path(args.html) if args.html else root / _PAGE, format_html_page(report))
    elif not stale:
        print("The committed tables and plots are those of the committed records.")
    return min(stale, 1)


def _write_own_report(args: argparse.Namespace) -> None:
    folder = Path(args.output) if args.output else _OUTPUT
    report = load_report([Path(given) for given in args.records])
    if not report.runs.records:
        raise RecordError(
            f"There is no record below {', '.join(args.records)}. A run writes {RECORD_FILE} into "
            "its folder when it ends."
        )
    _print_what_does_not_count(report)
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    for figure in report.all_figures():
        atomic_write_text(folder / "plots" / figure.name, figure.svg)
    write(folder / "RESULTS.md", format_results_page(report, folder, Path("plots"), None))
    write(Path(args.html) if args.html else folder / "report.html", format_html_page(report))


def _print_what_does_not_count(report: Report) -> None:
    counted = {key_of(record) for record in counting_records(report.scales)}
    others = [r for r in report.runs.records if key_of(r) not in counted]
    if others:
        names = sorted({_name(record) for record in others})
        print(
            f"{len(others)} of {len(report.runs.records)} records are not shown. They are not "
            "complete, their configs have changed since, or rows with key=value have them as "
            f"stages: {', '.join(names)}"
        )


def _add_to_runs(args: argparse.Namespace) -> None:
    for run in _folders(args.curves_of):
        target = run / CURVES_FILE
        if args.into:
            target = curves_file(_collected(run, Path(args.into)), Path(args.into))
        save_curves(curves_of_run(run), target)
        print(f"{target}: written")
        record = load_record(run / RECORD_FILE)
        made = bootstrap_of_run(record, run / RESULTS_FOLDER)
        if made is not None:
            beside = bootstrap_file(record, Path(args.into)) if args.into else run / BOOTSTRAP_FILE
            save_bootstrap(made, beside)
            print(f"{beside}: written")
    for run in _folders(args.examples_of):
        target = run / "examples"
        if args.into:
            target = examples_folder(_collected(run, Path(args.into)), Path(args.into))
        drawn = make_examples(run, target, args.count)
        print(f"{target}: {len(drawn.pictures)} pictures written")


def _folders(given: Iterable[str]) -> list[Path]:
    folders = [Path(text) for text in given]
    for folder in folders:
        if not (folder / RECORD_FILE).is_file():
            raise RecordError(
                f"{folder} is not the folder of a finished run: it has no {RECORD_FILE}. Give a "
                "folder such as output/table2c/roi_align_ave@mini/seed0."
            )
    return folders


def _collected(run: Path, folder: Path) -> Record:
    """Returns the record of a run if it is in the directory of collected records."""
    record = load_record(run / RECORD_FILE)
    file = record_file(record, folder)
    if not file.is_file() or key_of(load_record(file)) != key_of(record):
        raise RecordError(
            f"{file} is not the record of {run}, beside which this should lie. Copy the run's "
            f"{RECORD_FILE} there first (tools/run_table.py TABLE --collect), or leave --into away."
        )
    return record


def _name(record: Record) -> str:
    profile = record.config.profile
    return record.config.id + ("" if profile == "paper" else f"@{profile}")
