"""What `tools/check_data.py` does after parsing."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
from collections.abc import Callable, Iterator

from tqdm import tqdm

from mask_rcnn_repro.registration import register
from mask_rcnn_tools.check_data.check import Options, check
from mask_rcnn_tools.check_data.findings import LEVELS, Report
from mask_rcnn_tools.check_data.sources import sources_of_config, sources_of_json
from mask_rcnn_tools.check_data.text import format_report
from mask_rcnn_tools.common.command_line import run_command


def main(args: argparse.Namespace) -> None:
    """Runs a parsed command line and exits; see :func:`run_command` and :func:`status`."""
    run_command(_check, args)


def _check(args: argparse.Namespace) -> int:
    report = run(args)
    print(
        json.dumps(report.to_dict(), indent=2)
        if args.json
        else format_report(report, args.all_classes)
    )
    return status(report, args.fail_on)


def status(report: Report, fail_on: str) -> int:
    """Returns the exit status: 1 if there is a finding of the given level or a worse one.

    Args:
        report: The findings.
        fail_on: `"error"`, `"warning"`, `"note"` or `"never"`.
    """
    if fail_on == "never":
        return 0
    levels = LEVELS[: LEVELS.index(fail_on) + 1]
    return int(any(finding.level in levels for finding in report.findings))


def run(args: argparse.Namespace) -> Report:
    """Checks the data that a parsed command line names.

    Raises:
        ConfigError: The config cannot be used.
    """
    register()
    with _quiet():
        return _run(args)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences what loaders log, because the report has it."""
    logger = logging.getLogger("mask_rcnn_repro")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _run(args: argparse.Namespace) -> Report:
    if args.config_file:
        scale = "" if args.profile == "paper" else f" at {args.profile}"
        report = Report(f"Data of {args.config_file}{scale}")
        sources = sources_of_config(
            args.config_file, args.profile, args.overrides, report, args.seed
        )
    else:
        report = Report(f"{args.annotations} with images in {args.images}")
        sources = sources_of_json(args.annotations, args.images, report)
    options = Options(not args.no_images, args.hash, args.decode, args.sample, args.threads)
    return check(sources, report, options, None if args.json else _progress)


def _progress(source: str, count: int) -> Callable[[int], None]:
    """Shows a progress bar for many images on a terminal."""
    bar = tqdm(
        total=count,
        desc=source[-40:],
        unit=" images",
        disable=count < 2000 or not sys.stderr.isatty(),
        leave=False,
    )

    def update(done: int) -> None:
        bar.update(done)
        if bar.n >= count:
            bar.close()

    return update
