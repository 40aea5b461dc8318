"""Train and evaluate with everything that this project adds: data check, drawings, distillation."""

from __future__ import annotations

import argparse
import functools

from mask_rcnn_repro.engine.extensions import Extensions
from mask_rcnn_tools.check_data.before_training import check_before_training
from mask_rcnn_tools.common.command_line import run_command
from mask_rcnn_tools.distill.teacher import annotate
from mask_rcnn_tools.drawing.evaluation import draw_results
from mask_rcnn_tools.evidence.image_bootstrap import write_bootstrap
from mask_rcnn_tools.evidence.summary import print_results
from mask_rcnn_tools.train.run import main as train_or_evaluate
from mask_rcnn_tools.train.verify import verifier
from mask_rcnn_tools.train.writers import build_writers

EXTENSIONS = Extensions(
    check_data=check_before_training,
    draw=draw_results,
    resample=write_bootstrap,
    annotate=annotate,
    writers=build_writers,
    show=print_results,
    verify=verifier,
)


def main(args: argparse.Namespace) -> None:
    """Runs a parsed command line of `train_net.py`."""
    run_command(
        functools.partial(train_or_evaluate, extensions=EXTENSIONS),
        args,
        stopped="Stopped; --resume continues from the last checkpoint.",
    )
