"""Command line of `tools/predict.py`. Standard library only, so that `--help` is fast."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mask_rcnn_tools.common.command_line import (
    CONFIG_CODE_WARNING,
    OVERRIDES_OF_TRAINING,
    CommandParser,
    add_checkpoint_arguments,
    add_config_arguments,
    add_drawing_arguments,
    check_overrides,
    number,
    split_overrides,
)

_DESCRIPTION = f"""\
Runs a trained model on images and videos. Draws its detections and writes them as COCO json.
Files that cannot be read are reported and skipped; the exit status is then 1.
{CONFIG_CODE_WARNING}"""

_EPILOG = f"""\
{OVERRIDES_OF_TRAINING}

examples:
  a directory, with the model that the quickstart trained:
    tools/predict.py --config-file quickstart/mask_rcnn_r18_fpn --input photos/
  your own checkpoint, several images and a pattern, objects with a score of at least 0.7:
    tools/predict.py --config-file table2a/r50_fpn --checkpoint model_final.pth \\
      --input a.jpg b.png 'more/*.jpg' --threshold 0.7
  a video, every second frame, without json:
    tools/predict.py --config-file table2a/r50_fpn --input clip.mp4 --every 2 --no-json
  the first camera, until Ctrl-C:
    tools/predict.py --config-file table2a/r50_fpn --webcam 0"""


def build_parser() -> CommandParser:
    """Builds the parser."""
    parser = CommandParser(
        "predict.py",
        "--config-file FILE --input PATH ... [flags] [key=value ...]",
        _DESCRIPTION,
        _EPILOG,
    )
    add_config_arguments(parser, seed="seed of the run whose weights are used")
    group = parser.add_argument_group("model")
    add_checkpoint_arguments(group)
    add = group.add_argument
    add("--tta", action="store_true", help="test-time augmentation, as train.tta defines it")
    add("--device", metavar="D", help="cpu, cuda or cuda:1 (default: train.device)")
    add(
        "--batch-size",
        type=number(int, 1),
        default=1,
        metavar="N",
        help="images that go through the model together (default 1)",
    )
    add = parser.add_argument_group("input").add_argument
    add(
        "--input",
        nargs="+",
        default=[],
        metavar="PATH",
        help="images, videos, directories (with all directories in them), patterns in quotes",
    )
    add("--webcam", type=number(int, 0), metavar="N", help="read camera N, from 0")
    add(
        "--every",
        type=number(int, 1),
        default=1,
        metavar="N",
        help="predict on every N-th frame of videos (default 1)",
    )
    add(
        "--max-frames",
        type=number(int, 1),
        metavar="N",
        help="predict on at most N frames of each video and camera",
    )
    output = parser.add_argument_group("output")
    add = output.add_argument
    add(
        "--output",
        default="predictions",
        metavar="FOLDER",
        help="directory of all results (default: predictions); existing files are replaced",
    )
    add("--no-pictures", action="store_true", help="draw nothing")
    add("--no-json", action="store_true", help="write no predictions.json")
    add(
        "--threshold",
        type=number(float, 0, 1),
        metavar="S",
        help="minimum score of drawn objects (default 0.5; proposals: 0). The json holds all "
        "detections of at least model.roi_heads.box_predictor.test_score_thresh",
    )
    add(
        "--top-k",
        type=number(int, 1),
        metavar="K",
        help="maximum number of objects drawn on a picture (default: all; proposals: 20)",
    )
    add(
        "--keypoint-threshold",
        type=number(float, 0),
        default=0.05,
        metavar="S",
        help="minimum score of drawn keypoints (default 0.05)",
    )
    add_drawing_arguments(output)
    return parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line; see :func:`mask_rcnn_tools.train.cli.parse_args`."""
    parser = build_parser()
    args = parser.parse_intermixed_args(argv)
    args.input, overrides = split_overrides(args.input)
    args.overrides += overrides
    check_overrides(parser, args.overrides)
    if not args.input and args.webcam is None:
        parser.error("give --input PATH ..., or --webcam 0 for the first camera")
    if args.no_pictures and args.no_json:
        parser.error("--no-pictures and --no-json together leave nothing to do")
    if args.tta:
        args.overrides.append("train.tta.enabled=true")
    if args.device is not None:
        args.overrides.append(f"train.device={args.device}")
    return args
