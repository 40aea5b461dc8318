"""Command line of `tools/evaluate.py`. Standard library only, so that `--help` is fast."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mask_rcnn_tools.common.command_line import CommandParser, number

IOU_TYPES = ("bbox", "segm", "keypoints")

_DESCRIPTION = """\
Measures a results file in COCO's format: COCO's metrics and the AP of each class, with intervals
over test images (bootstrap). With two files it compares them on the same samples of images. Needs
neither a config nor the images."""

_EPILOG = """\
examples:
  the masks of any detector:
    tools/evaluate.py --annotations val.json --results segm_results.json
  the boxes of the same file, as JSON:
    tools/evaluate.py --annotations val.json --results predictions.json --iou-type bbox --json
  does the second detector differ from the first?
    tools/evaluate.py --annotations val.json --results first.json second.json"""

_REPLACEMENTS = {
    **dict.fromkeys(("--json-file", "--ground-truth", "--gt"), "--annotations FILE"),
    **dict.fromkeys(("--predictions", "--detections", "--dt"), "--results FILE"),
    "--config-file": "--annotations FILE; tools/analyze.py takes a config",
}
"""Flags of other commands."""


def build_parser() -> CommandParser:
    """Builds the parser."""
    parser = CommandParser(
        "evaluate.py",
        "--annotations FILE --results FILE [SECOND] [flags]",
        _DESCRIPTION,
        _EPILOG,
        _REPLACEMENTS,
    )
    add = parser.add_argument
    add("--annotations", required=True, metavar="FILE", help="a COCO json with annotations")
    add(
        "--results",
        required=True,
        nargs="+",
        metavar="FILE",
        help="one or two result files; with two, the differences are the second minus the first",
    )
    add(
        "--iou-type",
        choices=IOU_TYPES,
        help="what is measured (default: masks if all files have them, else keypoints, else boxes)",
    )
    add(
        "--max-detections",
        type=number(int, 1),
        default=100,
        metavar="N",
        help="detections per image and class, by score (default 100; keypoints always take 20)",
    )
    add(
        "--oks-sigmas",
        type=number(float, 0, above=True),
        nargs="+",
        default=[],
        metavar="S",
        help="standard deviation of each keypoint (default: COCO's 17)",
    )
    add(
        "--samples",
        type=number(int, 0),
        default=1000,
        metavar="B",
        help="number of bootstrap samples; 0 computes no intervals (default 1000)",
    )
    add(
        "--confidence",
        type=number(float, 50, 99.9),
        default=95.0,
        metavar="P",
        help="confidence of the intervals in percent (default 95)",
    )
    add("--json", action="store_true", help="print JSON instead of tables")
    return parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line; see :func:`mask_rcnn_tools.train.cli.parse_args`."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if len(args.results) > 2:
        parser.error(f"--results takes one or two files, got {len(args.results)}")
    if 0 < args.samples < 100:
        parser.error(f"--samples must be 0 or at least 100, got {args.samples}")
    if args.oks_sigmas and args.iou_type != "keypoints":
        parser.error("--oks-sigmas needs --iou-type keypoints")
    return args
