"""What `tools/analyze.py` does after parsing."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path

from mask_rcnn_repro.errors import DataError, UserError
from mask_rcnn_repro.registration import register
from mask_rcnn_repro.utils.atomic import atomic_write_text
from mask_rcnn_tools.analyze.inputs import Inputs, read_inputs
from mask_rcnn_tools.analyze.pictures import draw_images
from mask_rcnn_tools.analyze.plots import draw_plots
from mask_rcnn_tools.analyze.results import Analysis, analyse, to_plain
from mask_rcnn_tools.analyze.tables import format_tables

RESULT_FILE = "analysis.json"


def main(args: argparse.Namespace) -> None:
    """Runs a parsed command line; a user's mistake is printed plainly and exits with 2."""
    try:
        run(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr, flush=True)
        raise SystemExit(130) from None


def run(args: argparse.Namespace) -> Analysis:
    """Analyses, writes the files and prints the tables or the JSON."""
    register()
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    inputs = read_inputs(args)
    analysis = analyse(inputs.material, args)
    content = to_plain(analysis, inputs, args)
    try:
        files = _write(args, inputs, analysis, json.dumps(content, indent=1))
    except OSError as error:
        raise DataError(
            f"{inputs.output} cannot be written to: {error}. Give another folder with --output."
        ) from error
    if args.json:
        print(json.dumps(content, indent=1))
    else:
        print(format_tables(analysis, inputs))
        print(f"\n{len(files)} files in {inputs.output}: {', '.join(f.name for f in files)}")
    return analysis


def _write(
    args: argparse.Namespace, inputs: Inputs, analysis: Analysis, content: str
) -> list[Path]:
    inputs.output.mkdir(parents=True, exist_ok=True)
    result = inputs.output / RESULT_FILE
    atomic_write_text(result, content + "\n")
    formats = ("png", "svg") if args.format == "both" else (args.format,)
    files = [result, *draw_plots(analysis, inputs.title, inputs.output, formats)]
    if analysis.images is not None and args.images:
        files += draw_images(analysis.images, inputs.records, inputs.output, args.images)
    return files
