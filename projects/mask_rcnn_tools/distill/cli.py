"""The command line of `tools/distill.py`. Standard library only: `--help` answers at once."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence

from mask_rcnn_tools.train.cli import PROFILES, CommandParser, check_overrides

_DESCRIPTION = """\
Runs a trained model over unlabeled images and writes what it finds as annotations in COCO format,
to be trained on beside labeled ones (dataset.generated of a get_mixed_dicts). A killed command
goes on where it was when it is given again.
A config file is Python code and runs with your rights: use only files that you trust."""

_EPILOG = """\
Changes to the config (key=value, +key=value, ~key) are those that the model was trained with;
train_net.py --help explains them.

examples:
  annotate COCO's unlabeled images with the model of a row, on 8 GPUs:
    tools/distill.py --config-file table9/resnext --processes 8
  the same on the embedded data:
    tools/distill.py --config-file table9/resnext --profile mini
  images of your own (a json with their names and sizes, without annotations), weights of your own:
    tools/distill.py --config-file table9/resnext --checkpoint model_final.pth \\
      --unlabeled mine --unlabeled-json mine.json --unlabeled-images mine/"""


def _number(kind: type[int] | type[float], least: float, strictly: bool = False) -> object:
    def number(text: str) -> int | float:
        value = kind(text)
        if not math.isfinite(value) or value < least or (strictly and value == least):
            limit = "above" if strictly else "at least"
            raise argparse.ArgumentTypeError(f"must be {limit} {least}, got {text}")
        return value

    return number


def build_parser() -> argparse.ArgumentParser:
    """Builds the parser."""
    parser = CommandParser(
        prog="distill.py",
        usage="distill.py --config-file FILE [flags] [key=value +key=value ~key ...]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--config-file",
        required=True,
        metavar="FILE",
        help="config of the trained model: a .py file, a saved config.yaml, or an id",
    )
    add(
        "--profile",
        choices=PROFILES,
        default="paper",
        help="scale that it was trained at (default paper)",
    )
    add(
        "--checkpoint",
        default=None,
        metavar="FILE",
        help="its weights (default: the last ones of this config's own run)",
    )
    add(
        "--rpn-checkpoint",
        default=None,
        metavar="FILE",
        help="weights of the RPN of a stage-wise model (default: those of the RPN's own run)",
    )
    add(
        "--seed", type=int, default=None, metavar="S", help="seed of the run whose weights are used"
    )
    images = parser.add_argument_group("which images")
    add = images.add_argument
    add(
        "--unlabeled",
        default=None,
        metavar="NAME",
        help="data set (default: the unlabeled images that belong to the training data: "
        "coco_2017_unlabeled, or the embedded ones)",
    )
    add(
        "--unlabeled-json",
        default=None,
        metavar="FILE",
        help="of images of your own, named NAME: COCO's json of images",
    )
    add(
        "--unlabeled-images",
        default=None,
        metavar="FOLDER",
        help="of images of your own: the files",
    )
    made = parser.add_argument_group("what is made")
    add = made.add_argument
    add(
        "--output",
        default=None,
        metavar="FOLDER",
        help="where generated.json goes (default: distilled/NAME in the folder of the model's run)",
    )
    add(
        "--single-view",
        action="store_true",
        help="predict on each image as it is, without transforms",
    )
    add(
        "--instances-per-image",
        type=_number(float, 0, strictly=True),  # type: ignore[arg-type]
        default=None,
        metavar="X",
        help="choose the score threshold that gives X (default: the labeled data's average)",
    )
    add(
        "--min-keypoint-score",
        type=_number(float, 0),  # type: ignore[arg-type]
        default=0.0,
        metavar="S",
        help="keypoints with a lower score are not labelled (default 0: all are)",
    )
    add(
        "--images-per-file",
        type=_number(int, 1),  # type: ignore[arg-type]
        default=16,
        metavar="N",
        help="images whose predictions are written at once (default 16); a process that is killed "
        "loses no more",
    )
    add(
        "--processes",
        type=_number(int, 1),  # type: ignore[arg-type]
        default=1,
        metavar="N",
        help="processes that share the images, one GPU each (default 1); torchrun works, too",
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="changes to the config, see below"
    )
    return parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line; mistakes are printed and exit with status 2.

    Args:
        argv: arguments without the program's name; None for those of this process.

    Returns:
        One attribute per flag, `overrides`, and what
        :func:`~mask_rcnn_repro.engine.launch.processes.run_distributed` needs.
    """
    parser = build_parser()
    args = parser.parse_intermixed_args(sys.argv[1:] if argv is None else list(argv))
    check_overrides(parser, args.overrides)
    own = args.unlabeled_json is not None, args.unlabeled_images is not None
    if any(own) and not (all(own) and args.unlabeled):
        parser.error(
            "images of your own need --unlabeled NAME, --unlabeled-json FILE and "
            "--unlabeled-images FOLDER"
        )
    args.num_gpus, args.num_machines = args.processes, 1
    args.machine_rank, args.dist_url = 0, "auto"
    return args
