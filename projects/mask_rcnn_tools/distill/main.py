"""What `tools/distill.py` does after parsing."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from mask_rcnn_repro.config import config_id, default_output_dir, load_config
from mask_rcnn_repro.config.from_data import fit_to_data
from mask_rcnn_repro.config.schema import train_fields
from mask_rcnn_repro.data.generated.annotations import DISTILLED_FOLDER, default_unlabeled
from mask_rcnn_repro.distillation.run import distill
from mask_rcnn_repro.engine.builders import resolve_device
from mask_rcnn_repro.engine.checkpoint.checkpointer import find_last_checkpoint
from mask_rcnn_repro.engine.dependencies import DataSet, data_sets
from mask_rcnn_repro.engine.launch.processes import run_distributed
from mask_rcnn_repro.engine.run_folder import keep_logs, setup_logging
from mask_rcnn_repro.errors import CheckpointError, UserError
from mask_rcnn_repro.registration import register
from mask_rcnn_repro.utils.locks import exclusive

_PREDICTION_KEYS = (
    "train.init_checkpoint",
    "model.roi_heads.box_predictor.test_score_thresh",
    "model.roi_heads.box_predictor.test_topk_per_image",
    *(f"train.tta.{name}" for name in train_fields(("tta",)) or ()),
)
"""Overrides that say how to predict: the run whose weights are taken has none of them."""


def main(args: argparse.Namespace) -> None:
    """Runs a parsed command line; a user's mistake is printed plainly and exits with 2."""
    try:
        run_distributed(run, args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("Stopped; the same command goes on from here.", file=sys.stderr, flush=True)
        raise SystemExit(130) from None


def run(args: argparse.Namespace) -> None:
    """Distils in this process, which may be one of several."""
    register()
    with keep_logs() as earlier:
        cfg = load_config(args.config_file, args.profile, args.overrides, seed=args.seed)
        cfg = fit_to_data(cfg, args.overrides)
    name = config_id(args.config_file)
    own = Path(
        default_output_dir(
            name,
            args.profile,
            cfg.train.seed,
            args.overrides,
            ignore=_PREDICTION_KEYS,
            root=str(cfg.train.output_root),
        )
    )
    if cfg.train.output_dir:
        own = Path(cfg.train.output_dir)
    checkpoint = args.checkpoint or _last_checkpoint(own)
    unlabeled = DataSet(
        args.unlabeled or default_unlabeled(data_sets(cfg, "train")[0].name),
        args.unlabeled_json,
        args.unlabeled_images,
    )
    output = Path(args.output) if args.output else own / DISTILLED_FOLDER / unlabeled.name
    device = resolve_device(cfg.train.device)
    with exclusive(output, purpose="this distillation", wait=False):
        setup_logging(output, earlier)
        if cfg.train.num_threads:
            torch.set_num_threads(cfg.train.num_threads)
        distill(
            cfg,
            checkpoint,
            output,
            config_id=name,
            unlabeled=unlabeled,
            rpn_checkpoint=args.rpn_checkpoint,
            device=device,
            single_view=args.single_view,
            instances_per_image=args.instances_per_image,
            min_keypoint_score=args.min_keypoint_score,
            images_per_file=args.images_per_file,
        )


def _last_checkpoint(folder: Path) -> str:
    last = find_last_checkpoint(folder)
    if last is None:
        raise CheckpointError(
            f"There is no trained model in {folder}, the folder of this config's own run. Train it "
            "first, or give its weights with --checkpoint FILE."
        )
    return str(last)
