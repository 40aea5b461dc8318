"""Config and checkpoint of the training run that a command line names."""

from __future__ import annotations

import argparse
import logging
import shlex
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from mask_rcnn_repro.config import config_id, default_output_dir, load_config
from mask_rcnn_repro.config.dotted_keys import format_key
from mask_rcnn_repro.config.from_data import fit_to_data
from mask_rcnn_repro.config.overrides import parse_override
from mask_rcnn_repro.engine.checkpoint.checkpointer import FINAL_CHECKPOINT, find_last_checkpoint
from mask_rcnn_repro.errors import CheckpointError
from mask_rcnn_repro.registration import register

logger = logging.getLogger(__name__)

_TEST_KEYS = (
    "train.init_checkpoint",
    "train.tta.",
    "dataloader.test.",
    "dataloader.evaluator.",
    "model.roi_heads.box_predictor.test_",
)
"""Prefixes of keys that may have other values after the training."""


def load_given_config(args: argparse.Namespace) -> DictConfig:
    """Loads the config of a parsed command line and fits it to its data."""
    register()
    cfg = load_config(args.config_file, args.profile, args.overrides, seed=args.seed)
    return fit_to_data(cfg, args.overrides)


def find_checkpoint(args: argparse.Namespace, cfg: DictConfig) -> str:
    """Returns `--checkpoint`, or the last checkpoint of the config's own run.

    Overrides of tests, such as a score threshold, do not change the run, unless a run with exactly
    these overrides exists.

    Args:
        args: Parsed command line.
        cfg: Its config.

    Raises:
        CheckpointError: The run has no checkpoint.
    """
    if args.checkpoint:
        return str(args.checkpoint)
    if cfg.train.output_dir:
        folder = Path(cfg.train.output_dir)
    else:
        exact, folder = (
            Path(
                default_output_dir(
                    config_id(args.config_file),
                    args.profile,
                    cfg.train.seed,
                    overrides,
                    ignore=["train.init_checkpoint"],
                    root=str(cfg.train.output_root),
                )
            )
            for overrides in (args.overrides, _training_overrides(args.overrides))
        )
        folder = exact if find_last_checkpoint(exact) is not None else folder
    return last_checkpoint(folder, args)


def last_checkpoint(folder: Path, args: argparse.Namespace) -> str:
    """Returns the last checkpoint of a run. Warns if the training is not complete.

    Args:
        folder: Directory of the run.
        args: Parsed command line.

    Raises:
        CheckpointError: There is none.
    """
    last = find_last_checkpoint(folder)
    if last is None:
        words = ["python", "train_net.py", "--config-file", args.config_file]
        words += ["--profile", args.profile] if args.profile != "paper" else []
        command = shlex.join([*words, *_training_overrides(args.overrides)])
        raise CheckpointError(
            f"There is no trained model in {folder}, the directory of this config's own run. Train "
            f"it first:\n  {command}\nor give weights with --checkpoint FILE."
        )
    if last.name != FINAL_CHECKPOINT:
        logger.warning("The training in %s is not complete: using %s.", folder, last.name)
    return str(last)


def _training_overrides(overrides: Sequence[str]) -> list[str]:
    """Returns the overrides that change the training."""
    return [
        text
        for text in overrides
        if not format_key(parse_override(text).key).startswith(_TEST_KEYS)
    ]
