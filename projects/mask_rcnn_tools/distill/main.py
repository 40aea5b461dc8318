"""`tools/distill.py` after parsing."""

from __future__ import annotations

import argparse
from pathlib import Path

from mask_rcnn_repro.config.schema import train_fields
from mask_rcnn_repro.data.generated.annotations import DISTILLED_FOLDER, default_unlabeled
from mask_rcnn_repro.distillation.run import distill
from mask_rcnn_repro.engine.builders import resolve_device
from mask_rcnn_repro.engine.dependencies import DataSet, data_sets
from mask_rcnn_repro.engine.run_folder import keep_logs, setup_logging
from mask_rcnn_repro.utils.locks import exclusive
from mask_rcnn_repro.utils.threads import use_threads
from mask_rcnn_tools.common.command_line import run_command
from mask_rcnn_tools.common.trained_run import (
    given_id,
    last_checkpoint,
    load_given_config,
    run_directory,
)
from mask_rcnn_tools.launch.processes import run_distributed

_PREDICTION_KEYS = (
    "train.init_checkpoint",
    "model.roi_heads.box_predictor.test_score_thresh",
    "model.roi_heads.box_predictor.test_topk_per_image",
    *(f"train.tta.{name}" for name in train_fields(("tta",)) or ()),
)
"""Overrides of prediction, which do not change the run whose weights are used."""


def main(args: argparse.Namespace) -> None:
    """Runs a parsed command line and exits; see :func:`run_command`."""
    run_command(_distill, args, "Stopped; the same command continues from here.")


def _distill(args: argparse.Namespace) -> None:
    run_distributed(run, args)


def run(args: argparse.Namespace) -> None:
    """Distills in this process, which may be one of several."""
    with keep_logs() as earlier:
        cfg = load_given_config(args)
    own = run_directory(args, cfg, ignore=_PREDICTION_KEYS)
    checkpoint = args.checkpoint or last_checkpoint(own, args)
    unlabeled = DataSet(
        args.unlabeled or default_unlabeled(data_sets(cfg, "train")[0].name),
        args.unlabeled_json,
        args.unlabeled_images,
    )
    output = Path(args.output) if args.output else own / DISTILLED_FOLDER / unlabeled.name
    device = resolve_device(cfg.train.device)
    with exclusive(output, purpose="this distillation", wait=False):
        setup_logging(output, earlier)
        use_threads(cfg.train.num_threads)
        distill(
            cfg,
            checkpoint,
            output,
            config_id=given_id(args),
            unlabeled=unlabeled,
            rpn_checkpoint=args.rpn_checkpoint,
            device=device,
            single_view=args.single_view,
            instances_per_image=args.instances_per_image,
            min_keypoint_score=args.min_keypoint_score,
            images_per_file=args.images_per_file,
        )
