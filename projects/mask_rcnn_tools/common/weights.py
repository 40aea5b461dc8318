"""Which weights a command takes where none are given: the last ones of the config's own run."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from mask_rcnn_repro.config import config_id, default_output_dir
from mask_rcnn_repro.config.keys import format_key
from mask_rcnn_repro.config.overrides import parse_override
from mask_rcnn_repro.engine.checkpoint.checkpointer import FINAL_CHECKPOINT, find_last_checkpoint
from mask_rcnn_repro.errors import CheckpointError

logger = logging.getLogger(__name__)

_OF_TESTS = (
    "train.init_checkpoint",
    "train.tta.",
    "dataloader.test.",
    "dataloader.evaluator.",
    "model.roi_heads.box_predictor.test_",
)
"""Beginnings of keys that a trained model may be used with other values of."""


def run_folder(config_file: str, profile: str, cfg: DictConfig, overrides: Sequence[str]) -> Path:
    """The folder of the training run that a config and its overrides stand for.

    Overrides of tests, such as another score threshold, name no other run, unless a run with
    exactly these overrides exists.
    """
    if cfg.train.output_dir:
        return Path(cfg.train.output_dir)
    lasting = lasting_overrides(overrides)
    exact, plain = (
        Path(
            default_output_dir(
                config_id(config_file),
                profile,
                cfg.train.seed,
                given,
                ignore=["train.init_checkpoint"],
                root=str(cfg.train.output_root),
            )
        )
        for given in (overrides, lasting)
    )
    return exact if find_last_checkpoint(exact) is not None else plain


def lasting_overrides(overrides: Sequence[str]) -> list[str]:
    """Those that change the training, not only what is done with its model."""
    return [
        text for text in overrides if not format_key(parse_override(text).key).startswith(_OF_TESTS)
    ]


def default_checkpoint(folder: Path, command: str) -> str:
    """The last checkpoint of a run, with a warning if its training is not complete.

    Args:
        folder: The run's.
        command: What would train it, for the message.

    Raises:
        CheckpointError: There is none.
    """
    last = find_last_checkpoint(folder)
    if last is None:
        raise CheckpointError(
            f"There is no trained model in {folder}, the folder of this config's own run. Train it "
            f"first:\n  {command}\nor give weights with --checkpoint FILE."
        )
    if last.name != FINAL_CHECKPOINT:
        logger.warning("The training in %s is not complete: taking %s.", folder, last.name)
    return str(last)
