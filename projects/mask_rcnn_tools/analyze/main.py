"""`tools/analyze.py` after parsing."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

from mask_rcnn_repro.errors import DataError
from mask_rcnn_repro.registration import register
from mask_rcnn_repro.utils.atomic import atomic_write_text
from mask_rcnn_tools.analyze.inputs import AnalysisInputs, read_inputs
from mask_rcnn_tools.analyze.pictures import draw_images
from mask_rcnn_tools.analyze.plots import draw_plots
from mask_rcnn_tools.analyze.results import Analysis, analyze, to_plain
from mask_rcnn_tools.analyze.tables import format_tables
from mask_rcnn_tools.common.command_line import run_command

RESULT_FILE = "analysis.json"


def main(args: argparse.Namespace) -> None:
    """Runs a parsed command line and exits; see :func:`run_command`."""
    run_command(run, args)


def run(args: argparse.Namespace) -> None:
    """Analyzes, writes the files and prints the tables or the JSON."""
    register()
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    inputs = read_inputs(args)
    analysis = analyze(inputs.data, args)
    content = to_plain(analysis, inputs, args)
    try:
        files = _write(args, inputs, analysis, json.dumps(content, indent=1))
    except OSError as error:
        raise DataError(
            f"{inputs.output} is not writable: {error}. Give another directory with --output."
        ) from error
    if args.json:
        print(json.dumps(content, indent=1))
    else:
        print(format_tables(analysis, inputs))
        print(f"\n{len(files)} files in {inputs.output}: {', '.join(f.name for f in files)}")


def _write(
    args: argparse.Namespace, inputs: AnalysisInputs, analysis: Analysis, content: str
) -> list[Path]:
    inputs.output.mkdir(parents=True, exist_ok=True)
    result = inputs.output / RESULT_FILE
    atomic_write_text(result, content + "\n")
    formats = ("png", "svg") if args.format == "both" else (args.format,)
    files = [result, *draw_plots(analysis, inputs.title, inputs.output, formats)]
    if analysis.images is not None and args.images:
        files += draw_images(analysis.images, inputs.records, inputs.output, args.images)
    return files
