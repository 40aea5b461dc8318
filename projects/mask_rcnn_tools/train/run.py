"""What `train_net.py` does after parsing: print, compare, train or evaluate a config."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import functools
import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.utils import comm
from omegaconf import DictConfig, OmegaConf

from mask_rcnn_repro.config import (
    config_id,
    diff_configs,
    format_config,
    format_diff,
    list_configs,
)
from mask_rcnn_repro.config.output_dir import differences_from
from mask_rcnn_repro.config.schema import train_fields
from mask_rcnn_repro.engine.builders import build_model, check_batch_size, resolve_device
from mask_rcnn_repro.engine.checkpoint.checkpointer import (
    SafeCheckpointer,
    checkpoint_facts,
    find_last_checkpoint,
)
from mask_rcnn_repro.engine.dependencies import stage_seed
from mask_rcnn_repro.engine.evaluate import check_test_data, evaluate_model
from mask_rcnn_repro.engine.extensions import Extensions
from mask_rcnn_repro.engine.results import add_to_record, write_record
from mask_rcnn_repro.engine.run import Run, began_with
from mask_rcnn_repro.engine.run_folder import keep_logs, open_run_folder
from mask_rcnn_repro.engine.seeding import make_deterministic, seed_everything
from mask_rcnn_repro.engine.stages.prepare import prepare, store_results, train_stage
from mask_rcnn_repro.errors import CheckpointError, ConfigError
from mask_rcnn_repro.evaluation.coco.numbers import METRIC_NAMES
from mask_rcnn_repro.records import Record
from mask_rcnn_repro.utils.checkpoint_paths import check_exists, stage_of
from mask_rcnn_repro.utils.locks import exclusive
from mask_rcnn_repro.utils.precision import autocast_context
from mask_rcnn_repro.utils.threads import use_threads
from mask_rcnn_tools.common.trained_run import (
    default_directory,
    given_id,
    load_fitted,
    load_given_config,
    note_other_config,
    run_directory,
    weights_of,
)
from mask_rcnn_tools.launch.processes import run_distributed, under_torchrun
from mask_rcnn_tools.train.dependency_checks import check_dependencies
from mask_rcnn_tools.train.other_runs import report_other_runs
from mask_rcnn_tools.train.writers import check_installed

logger = logging.getLogger(__name__)

NOT_MET = 3
"""Exit status after `--verify` if a number is not met."""

_GPU_WORKERS = 4  # as in the rows on COCO; fewer on few cores

_TTA_KEYS = tuple(f"train.tta.{name}" for name in train_fields(("tta",)) or ())


def main(args: argparse.Namespace, extensions: Extensions) -> None:
    """Runs a parsed command line of `train_net.py`.

    Args:
        args: As `mask_rcnn_tools.train.cli.parse_args` returns them.
        extensions: What the command adds to training and evaluation.

    Raises:
        UserError: A user-fixable error.
        SystemExit: With :data:`NOT_MET` after `--verify`, or as
            :func:`~mask_rcnn_tools.launch.processes.run_distributed` raises it.
    """
    if args.print_config or args.diff_config:
        _show(args)
        return
    world_size = args.num_gpus * args.num_machines
    timeout = None
    if world_size > 1 or under_torchrun():
        cfg = load_given_config(args)  # reports mistakes once instead of in each process
        timeout = cfg.train.process_timeout
        if args.verify and extensions.verify is not None:
            extensions.verify(cfg, given_id(args), args.verify)
        if not args.eval_only:
            check_batch_size(cfg, max(world_size, int(os.environ.get("WORLD_SIZE", "1"))))
    run_distributed(functools.partial(run, extensions=extensions), args, timeout)


def _load_ahead(run: Run) -> None:
    """Loads by processes where `mini` loads in the training process, which a GPU would wait for.

    What is loaded does not depend on it. A number on the command line stays.
    """
    for split in ("train", "test"):
        key = f"dataloader.{split}.num_workers"
        given = any(key in override for override in run.overrides)
        if run.device.type == "cuda" and run.profile == "mini" and not given:
            OmegaConf.update(run.cfg, key, _GPU_WORKERS)


def _show(args: argparse.Namespace) -> None:
    cfg = load_fitted(args)
    if args.print_config:
        print(format_config(cfg))
    if args.diff_config:
        other = load_fitted(args, args.diff_config)
        print(format_diff(diff_configs(other, cfg), args.diff_config, args.config_file))


def run(args: argparse.Namespace, extensions: Extensions) -> None:
    """Trains or evaluates in this process, which may be one of several."""
    with keep_logs() as earlier:
        cfg = load_given_config(args)
        if args.eval_only and getattr(args, "run_folder", None) and not _gives_weights(args):
            args.resume = True
        output_dir = _output_dir(args, cfg)
        if args.eval_only and args.resume:
            _use_its_stages(cfg, output_dir.parents[1])
    checkpoint = _checkpoint_to_evaluate(args, cfg, output_dir) if args.eval_only else ""
    device = resolve_device(cfg.train.device)
    # reports an impossible precision now
    autocast_context(device, cfg.train.amp.enabled, cfg.train.amp.dtype)
    below = config_id(args.config_file) in list_configs()
    file = None if below else Path(args.config_file)
    this = Run(given_id(args), cfg, output_dir, device, tuple(args.overrides), file)
    _load_ahead(this)
    met = None
    if args.verify and extensions.verify is not None:
        met = extensions.verify(cfg, this.config_id, args.verify)
    _check_metrics(cfg)
    if not args.eval_only:
        check_installed(cfg)
    check_dependencies(this, eval_only=args.eval_only)
    if cfg.train.tta.enabled and (this.is_rpn or this.is_classifier):  # not after the training
        raise ConfigError(
            f"{this.config_id} is no detector, so it has no detections for test-time augmentation "
            "to merge. Omit --tta or train.tta.enabled=true."
        )
    with contextlib.ExitStack() as stack:
        if not args.eval_only:
            stack.enter_context(exclusive(output_dir, purpose="this very run", wait=False))
        record = _run(this, args, extensions, earlier, checkpoint)
    if record is not None and extensions.show is not None:
        extensions.show(record)
    if met is not None:
        comm.synchronize()  # a process that exits with a status ends the others
        if record is not None and not met(record):
            raise SystemExit(NOT_MET)


def _check_metrics(cfg: DictConfig) -> None:
    """Checks the names of the metrics that a training watches.

    Raises:
        ConfigError: One is not of the form task/metric, or is none of the task's metrics.
    """
    watched = {
        "train.checkpointer.best": cfg.train.checkpointer.best,
        "train.early_stopping.metric": cfg.train.early_stopping.metric,
    }
    for key, metric in watched.items():
        task, _, name = (metric or "").partition("/")
        names = METRIC_NAMES.get(task, (name,))
        if metric is None or (task and name and name in names):
            continue
        known = [f"{known}/{n}" for known, values in METRIC_NAMES.items() for n in values]
        near = difflib.get_close_matches(metric, known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(
            f"{key}={metric!r} is no metric.{hint} Allowed are task/metric: {', '.join(known)}, "
            "proposals/AR@1000 and those of other evaluators."
        )


def _run(
    this: Run,
    args: argparse.Namespace,
    extensions: Extensions,
    earlier: Sequence[logging.LogRecord],
    checkpoint: str,
) -> Record | None:
    cfg = this.cfg
    open_run_folder(this.folder, cfg, earlier)
    use_threads(cfg.train.num_threads)
    if cfg.train.deterministic:
        make_deterministic()
    logger.info(
        "%s, profile %s, %d process(es) on %s, output in %s",
        *(this.config_id, this.profile, comm.get_world_size(), this.device, this.folder),
    )
    if args.eval_only:
        return _evaluate_only(this, extensions, checkpoint)
    return _train(this, extensions, args.resume)


def _output_dir(args: argparse.Namespace, cfg: DictConfig) -> Path:
    suffix, own = _tta_suffix(cfg), getattr(args, "run_folder", None)
    if not args.eval_only:
        return run_directory(args, cfg)
    if cfg.train.output_dir and own is None:
        given = Path(cfg.train.output_dir)
        # keeps the record of the run
        return given / "eval" / f"last{suffix}" if args.resume else given
    # The weights that are evaluated do not change the directory of the run.
    ignored = ["train.init_checkpoint", *_TTA_KEYS]
    folder = default_directory(args, cfg, args.overrides, ignored)
    if own is not None:  # its evaluations with other settings are apart from each other
        folder, suffix = own, folder.name.removeprefix(f"seed{cfg.train.seed}") + suffix
    # one directory per checkpoint; the digest tells files of the same name apart
    path = str(cfg.train.init_checkpoint)
    name = "last" if args.resume else f"{Path(path).stem}-{_digest(path)}"
    return folder / "eval" / f"{name}{suffix}"


def _tta_suffix(cfg: DictConfig) -> str:
    """Returns a suffix that distinguishes evaluations with other test-time augmentation."""
    values = [OmegaConf.select(cfg, key) for key in _TTA_KEYS]
    return f"-tta-{_digest(repr(values))}" if cfg.train.tta.enabled else ""


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def _use_its_stages(cfg: DictConfig, folder: Path) -> None:
    """Makes an evaluation of a run use its RPN stage, in place, and reports what differs."""
    if differences := differences_from(folder, cfg):
        logger.info("The run in %s was made with other settings: %s.", folder, differences)
    train = cfg.train
    used: Any = began_with(folder).get("proposals") if train.stage_seed is None else None
    if used and train.proposals and used["seed"] != stage_seed(train, train.proposals):
        train.stage_seed = used["seed"]
        logger.info("It used seed %d of %s, as does the evaluation.", used["seed"], used["id"])


def _train(this: Run, extensions: Extensions, resume: bool) -> Record | None:
    if resume and comm.is_main_process():
        report_other_runs(this.folder, this.cfg)
    finished = this.finished_record() if resume else None
    if finished is not None:
        logger.info("This run is complete already; its record follows.")
        store_results(this)
        return finished if comm.is_main_process() else None
    return train_stage(this, prepare(this, extensions), extensions, resume=resume)


def _evaluate_only(this: Run, extensions: Extensions, checkpoint: str) -> Record | None:
    if comm.is_main_process():
        check_test_data(this.cfg, this.folder)  # before weights are downloaded
    inputs = prepare(this, extensions, eval_only=True)
    then, now = began_with(Path(checkpoint).parent).get("proposals"), inputs.proposals
    if then and now and then["checkpoint"] not in (None, now["checkpoint"]):
        logger.warning(
            "%s was trained on proposals of other weights of %s (%s...) than those that make its "
            "test proposals (%s...).",
            *(checkpoint, now["id"], then["checkpoint"][:12], str(now["checkpoint"])[:12]),
        )
    note_other_config(checkpoint, this.cfg)
    seed_everything(this.cfg.train.seed)
    model = build_model(this.cfg, this.device)
    SafeCheckpointer(model, str(this.folder)).load(checkpoint, checkpointables=[], policy="exact")
    evaluation = evaluate_model(inputs.fill(this.cfg), model, this.device, this.folder, final=True)
    record = write_record(
        this,
        inputs,
        evaluation,
        mode="eval",
        **checkpoint_facts(checkpoint),
        checkpoint=checkpoint,
        train_seconds=None,
    )
    add_to_record(this, record, extensions)
    comm.synchronize()
    return record


def _checkpoint_to_evaluate(args: argparse.Namespace, cfg: DictConfig, output_dir: Path) -> str:
    """Returns the weights to evaluate: the last ones of the run, or `train.init_checkpoint`."""
    if find_last_checkpoint(output_dir) is not None:
        raise ConfigError(
            f"train.output_dir={output_dir} is the directory of a training run, whose record an "
            "evaluation would replace. Give another directory, or --resume to evaluate the last "
            "checkpoint of that run."
        )
    if args.resume:
        folder = output_dir.parents[1]
        last = weights_of(folder)
        if last is None:
            raise CheckpointError(
                f"--eval-only --resume evaluates the last checkpoint in {folder}, but there is "
                "none. Train first, or give train.init_checkpoint=FILE."
            )
        return str(last)
    given = cfg.train.init_checkpoint
    published = "ImageNetPretrained" in str(given) and not _gives_weights(args)
    classifier = stage_of(str(given)) or published
    if not given or classifier:
        raise CheckpointError(
            f"--eval-only needs trained weights, and train.init_checkpoint is {given!r}. Give a "
            "trained checkpoint: train.init_checkpoint=output/.../model_final.pth, or --resume "
            "for the last one of this config's own run."
        )
    check_exists(str(given))
    return str(given)


def _gives_weights(args: argparse.Namespace) -> bool:
    """Returns whether the command line names a checkpoint."""
    return any(o.lstrip("+").startswith("train.init_checkpoint=") for o in args.overrides)
