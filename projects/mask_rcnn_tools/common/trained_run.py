"""Config and checkpoint of the training run that a command line names."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from detectron2.utils.logger import log_first_n
from omegaconf import DictConfig

from mask_rcnn_repro.config import config_id, default_output_dir, find_config, load_config
from mask_rcnn_repro.config.config_files import CONFIG_FILE
from mask_rcnn_repro.config.dotted_keys import format_key
from mask_rcnn_repro.config.from_data import fit_to_data
from mask_rcnn_repro.config.output_dir import differences_from
from mask_rcnn_repro.config.overrides import parse_override
from mask_rcnn_repro.engine.checkpoint.checkpointer import (
    FINAL_CHECKPOINT,
    POINTER,
    find_last_checkpoint,
)
from mask_rcnn_repro.engine.run import RECORD_FILE
from mask_rcnn_repro.errors import CheckpointError, RecordError
from mask_rcnn_repro.records import load_record
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

_NOT_OF_A_ROW = (
    r"dataloader\.(test|evaluator)\b|model\.roi_heads\.box_predictor\.test_"
    r"|lr_multiplier\b|train\.(?!proposals|init_from|freeze)"
)
"""Beginning of keys that do not tell the rows of a table apart, as a pattern."""

_TRACES = (POINTER, RECORD_FILE, FINAL_CHECKPOINT, "log.txt")
"""Files of which a run has at least one beside its config."""

_SEED_FOLDER = re.compile(r"seed\d+(-[0-9a-f]{8})?")


def load_fitted(args: argparse.Namespace, file: str | None = None) -> DictConfig:
    """Loads the config of a parsed command line, or another file, and fits it to its data."""
    register()
    cfg = load_config(file or args.config_file, args.profile, args.overrides, seed=args.seed)
    return fit_to_data(cfg, args.overrides)


def load_given_config(args: argparse.Namespace) -> DictConfig:
    """Loads the config of a parsed command line, fits it to its data, and finds its own run."""
    cfg = load_fitted(args)
    use_own_run(args, cfg)
    return cfg


def use_own_run(args: argparse.Namespace, cfg: DictConfig) -> None:
    """Finds the run that a config belongs to, if it is a run's `config.yaml` or its directory.

    Args:
        args: Parsed command line. Its attribute `run_id` becomes the id of the config that was run,
            and `run_folder` the directory of the run. For a training with other settings it becomes
            a directory beside that. Without such a run, or with an override of `train.output_dir`,
            `run_folder` stays unset.
        cfg: Config of the command line. Its `train.output_root` becomes the one of the run, from
            whichever directory the command is called.
    """
    file = find_config(args.config_file)
    if not is_run(file):
        return
    folder, keys = file.parent, [_key(text) for text in args.overrides]
    args.run_id = id_of(file)
    root = _root_of(folder, args.run_id)
    if root is not None and "train.output_root" not in keys:
        cfg.train.output_root = str(root)
    if "train.output_dir" in keys:
        return
    args.run_folder = folder
    if not getattr(args, "eval_only", True) and differences_from(folder, cfg):
        name = default_directory(args, cfg, args.overrides).name
        args.run_folder = folder.with_name(name if root is not None else f"{folder.name}-{name}")


def is_run(file: Path) -> bool:
    """Returns whether a config file is the `config.yaml` of a run."""
    return file.name == CONFIG_FILE and any(file.with_name(name).is_file() for name in _TRACES)


def run_id(folder: Path) -> str | None:
    """Returns the id of the config of a run: from its record, or from its default directory."""
    with contextlib.suppress(RecordError, OSError):
        return load_record(folder / RECORD_FILE).config.id
    if _SEED_FOLDER.fullmatch(folder.name) is None:
        return None
    return "/".join([folder.parents[1].name, folder.parent.name.partition("@")[0]])


def _root_of(folder: Path, name: str) -> Path | None:
    """Returns `train.output_root` of a run in its default directory, otherwise None."""
    parts = [*folder.parent.parts[:-1], folder.parent.name.partition("@")[0]]
    ids = name.split("/")
    if _SEED_FOLDER.fullmatch(folder.name) is None or parts[-len(ids) :] != ids:
        return None
    return Path(*parts[: -len(ids)])


def id_of(file: str | os.PathLike[str]) -> str:
    """Returns the id of a config; for the config of a run, the one that was run."""
    path = find_config(file)
    return (run_id(path.parent) if is_run(path) else None) or config_id(path)


def given_id(args: argparse.Namespace) -> str:
    """Returns the id of the config of a command line; that of a run's own config is the run's."""
    return str(getattr(args, "run_id", None) or config_id(args.config_file))


def default_directory(
    args: argparse.Namespace,
    cfg: DictConfig,
    overrides: Sequence[str],
    ignore: Sequence[str] = (),
) -> Path:
    """Returns the default directory of the run that a command line describes.

    Args:
        args: Parsed command line.
        cfg: Its config.
        overrides: Overrides that count.
        ignore: Keys whose overrides do not count.
    """
    profile = str(cfg.train.profile) if hasattr(args, "run_id") else args.profile
    root, seed = str(cfg.train.output_root), cfg.train.seed
    return Path(default_output_dir(given_id(args), profile, seed, overrides, ignore, root))


def run_directory(
    args: argparse.Namespace,
    cfg: DictConfig,
    overrides: Sequence[str] | None = None,
    ignore: Sequence[str] = (),
) -> Path:
    """Returns the directory of the run that a command line describes.

    It is that of a run whose own config is given, else `train.output_dir`, else the default. See
    :func:`default_directory`; `overrides` defaults to those of the command line.
    """
    if getattr(args, "run_folder", None) is not None:
        return Path(args.run_folder)
    if cfg.train.output_dir:
        return Path(cfg.train.output_dir)
    return default_directory(args, cfg, args.overrides if overrides is None else overrides, ignore)


def find_checkpoint(args: argparse.Namespace, cfg: DictConfig) -> str:
    """Returns `--checkpoint`, or the last checkpoint of the config's own run.

    Overrides of tests, such as a score threshold, do not change the run, unless a run with exactly
    these overrides exists. Warns if the run that wrote `--checkpoint` had another config.

    Args:
        args: Parsed command line.
        cfg: Its config.

    Raises:
        CheckpointError: The run has no checkpoint.
    """
    if args.checkpoint:
        note_other_config(args.checkpoint, cfg)
        return str(args.checkpoint)
    exact, folder = (
        run_directory(args, cfg, overrides, ["train.init_checkpoint"])
        for overrides in (args.overrides, _training_overrides(args.overrides))
    )
    return last_checkpoint(exact if weights_of(exact) is not None else folder, args)


def last_checkpoint(folder: Path, args: argparse.Namespace) -> str:
    """Returns the last checkpoint of a run. Warns if the training is not complete.

    Args:
        folder: Directory of the run.
        args: Parsed command line.

    Raises:
        CheckpointError: There is none.
    """
    last = weights_of(folder)
    if last is None:
        words = ["python", "train_net.py", "--config-file", args.config_file]
        words += ["--profile", args.profile] if args.profile != "paper" else []
        command = shlex.join([*words, *_training_overrides(args.overrides)])
        raise CheckpointError(
            f"There is no trained model in {folder}, the directory of this config's own run. Train "
            f"it first:\n  {command}\nor give weights with --checkpoint FILE."
        )
    warn_if_incomplete(last)
    return str(last)


def weights_of(folder: Path) -> Path | None:
    """Returns the last checkpoint of a run, or the final one if no file names the last."""
    final = folder / FINAL_CHECKPOINT
    return find_last_checkpoint(folder) or (final if final.is_file() else None)


def warn_if_incomplete(checkpoint: Path) -> None:
    """Warns if the last checkpoint of a run is not the final one."""
    if checkpoint.name != FINAL_CHECKPOINT:
        logger.warning(
            "The training in %s is not complete: using %s.", checkpoint.parent, checkpoint.name
        )


def note_other_config(checkpoint: str | os.PathLike[str], cfg: DictConfig) -> None:
    """Warns if the run that wrote a checkpoint had another config, tests and schedule aside."""
    folder = Path(checkpoint).parent
    if found := differences_from(folder, cfg, ignored=_NOT_OF_A_ROW):
        name = run_id(folder.resolve())
        log_first_n(
            logging.WARNING,
            f"{checkpoint} was written by another config, {folder / CONFIG_FILE}"
            f"{f' ({name})' if name else ''}: {found}.",
            key="message",
        )


def _training_overrides(overrides: Sequence[str]) -> list[str]:
    """Returns the overrides that change the training."""
    return [text for text in overrides if not _key(text).startswith(_TEST_KEYS)]


def _key(override: str) -> str:
    return format_key(parse_override(override).key)
