"""Command line of `tools/distill.py`. Standard library only, so that `--help` is fast."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mask_rcnn_tools.common.command_line import (
    CONFIG_CODE_WARNING,
    OVERRIDES_OF_TRAINING,
    CommandParser,
    add_checkpoint_arguments,
    add_config_arguments,
    check_overrides,
    number,
)

_DESCRIPTION = f"""\
Runs a trained model on unlabeled images and writes its detections as annotations in COCO format,
for training together with labeled ones (dataset.generated of a get_mixed_dicts). A killed command
continues where it stopped when it is run again.
{CONFIG_CODE_WARNING}"""

_EPILOG = f"""\
{OVERRIDES_OF_TRAINING}

examples:
  annotate COCO's unlabeled images with the model of a row, on 8 GPUs:
    tools/distill.py --config-file table9/resnext --processes 8
  the same on the embedded data:
    tools/distill.py --config-file table9/resnext --profile mini
  your own images (a json with their names and sizes, without annotations) and checkpoint:
    tools/distill.py --config-file table9/resnext --checkpoint model_final.pth \\
      --unlabeled mine --unlabeled-json mine.json --unlabeled-images mine/"""


def build_parser() -> CommandParser:
    """Builds the parser."""
    parser = CommandParser(
        "distill.py",
        "--config-file FILE [flags] [key=value +key=value ~key ...]",
        _DESCRIPTION,
        _EPILOG,
    )
    add_config_arguments(
        parser,
        profile="scale of its training (default paper)",
        seed="seed of the run whose weights are used",
    )
    add_checkpoint_arguments(parser)
    add = parser.add_argument_group("images").add_argument
    add(
        "--unlabeled",
        metavar="NAME",
        help="data set (default: the unlabeled images that belong to the training data: "
        "coco_2017_unlabeled, or the embedded ones)",
    )
    add(
        "--unlabeled-json",
        metavar="FILE",
        help="COCO json of your own images, which are registered as NAME",
    )
    add("--unlabeled-images", metavar="FOLDER", help="directory of your own images")
    add = parser.add_argument_group("output").add_argument
    add(
        "--output",
        metavar="FOLDER",
        help="directory of generated.json (default: distilled/NAME in the directory of the run)",
    )
    add(
        "--single-view",
        action="store_true",
        help="predict on each image as it is, without transforms",
    )
    add(
        "--instances-per-image",
        type=number(float, 0, above=True),
        metavar="X",
        help="choose the score threshold that gives X instances per image (default: the average of "
        "the labeled data)",
    )
    add(
        "--min-keypoint-score",
        type=number(float, 0),
        default=0.0,
        metavar="S",
        help="omit keypoints with a lower score (default 0: keep all)",
    )
    add(
        "--images-per-file",
        type=number(int, 1),
        default=16,
        metavar="N",
        help="images whose predictions are written at once (default 16); a killed process loses at "
        "most so many",
    )
    add(
        "--processes",
        type=number(int, 1),
        default=1,
        metavar="N",
        help="processes that share the images, one GPU each (default 1); torchrun works, too",
    )
    return parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line; see :func:`mask_rcnn_tools.train.cli.parse_args`.

    Returns:
        One attribute per flag, `overrides`, and the attributes that
        :func:`~mask_rcnn_tools.launch.processes.run_distributed` needs.
    """
    parser = build_parser()
    args = parser.parse_intermixed_args(argv)
    check_overrides(parser, args.overrides)
    own = args.unlabeled_json is not None, args.unlabeled_images is not None
    if any(own) and not (all(own) and args.unlabeled):
        parser.error(
            "your own images need --unlabeled NAME, --unlabeled-json FILE and "
            "--unlabeled-images FOLDER"
        )
    args.num_gpus, args.num_machines = args.processes, 1
    args.machine_rank, args.dist_url = 0, "auto"
    return args
