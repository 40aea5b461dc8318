"""Train a model from a config; training can be resumed."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import hooks
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from omegaconf import DictConfig
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mask_rcnn_repro.engine.builders import (
    build_model,
    build_optimizer,
    build_scheduler,
    build_train_data,
    check_batch_size,
    wrap_distributed,
)
from mask_rcnn_repro.engine.checkpoint.checkpointer import (
    FINAL_CHECKPOINT,
    Policy,
    SafeCheckpointer,
    checkpoint_facts,
    find_last_checkpoint,
)
from mask_rcnn_repro.engine.checkpoint.init_classes import ClassMap, take_classes
from mask_rcnn_repro.engine.checkpoint.init_from import load_initial_weights
from mask_rcnn_repro.engine.evaluate import evaluate_model
from mask_rcnn_repro.engine.run import Evaluation
from mask_rcnn_repro.engine.run_folder import build_writer_hook, forget_metrics_from
from mask_rcnn_repro.engine.seeding import seed_everything
from mask_rcnn_repro.engine.train.progress import BestCheckpoint, EarlyStopping, Patience
from mask_rcnn_repro.engine.train.resuming import (
    MissedEvalHook,
    keep_within_limit,
    load_last_whole_checkpoint,
)
from mask_rcnn_repro.engine.train.trainer import Trainer
from mask_rcnn_repro.errors import NonFiniteLossError, UserError
from mask_rcnn_repro.modeling.compiling import compile_parts
from mask_rcnn_repro.utils.disk_errors import full_storage
from mask_rcnn_repro.utils.interruption import Interrupted, deferred
from mask_rcnn_repro.utils.threads import ThreadBalance, choose_threads

logger = logging.getLogger(__name__)


@dataclass
class TrainingResult:
    """The outcome of a training.

    Attributes:
        model: The trained model (with `train.ema` the averaged one), not wrapped, on its device.
        evaluation: The evaluation after the last iteration.
        iterations: Iterations done, those before a resume included.
        stopped_early: Whether `train.early_stopping` ended the training.
        best: As :attr:`BestCheckpoint.kept`. None in all processes but the first.
        seconds: Wall-clock seconds of this process's training loop, evaluations included.
    """

    model: torch.nn.Module
    evaluation: Evaluation
    iterations: int
    stopped_early: bool
    best: dict[str, Any] | None
    seconds: float


def train(
    cfg: DictConfig,
    output_dir: Path,
    device: torch.device,
    resume: bool,
    detector_weights: Path | None = None,
    rpn_weights: Path | None = None,
    classes: ClassMap | None = None,
    writers: Sequence[EventWriter] | None = None,
) -> TrainingResult:
    """Trains `cfg.model` for `cfg.train.max_iter` iterations and evaluates it at the end.

    With `train.max_iter=0` the initial weights are evaluated and saved as the final checkpoint.

    Args:
        cfg: A validated config.
        output_dir: Directory for metrics, TensorBoard files and checkpoints.
        device: Device of the model.
        resume: Continue from the last checkpoint in `output_dir`, if one exists. On the CPU the
            result equals that of an uninterrupted run bit for bit.
        detector_weights: Weights of a run to start from, instead of `cfg.train.init_checkpoint`.
        rpn_weights: With `detector_weights`, the RPN of a model that shares its features.
        classes: Maps the classes of the initial weights. None if they are the same.
        writers: What metrics are written to beside `metrics.json`. None for TensorBoard.

    Raises:
        UserError: Data, checkpoints or losses stop the run. The last completed iteration is saved
            first (with several processes: the last periodic checkpoint), unless a loss or gradient
            is not finite or the disk is full.
        Interrupted: A signal stops the run. The last completed iteration is saved first.
    """
    check_batch_size(cfg)
    # initial weights depend on the seed alone and are equal in all processes
    seed_everything(cfg.train.seed)
    model = build_model(cfg, device)
    if cfg.train.compile != "off":
        compile_parts(model, cfg.train.compile, device)
    optimizer = build_optimizer(cfg, model)
    trainer = Trainer(
        wrap_distributed(model, cfg, device),
        None,  # set below: the loader starts where the checkpoint ends
        optimizer,
        seed=cfg.train.seed,
        device=device,
        accumulate=cfg.train.accumulate,
        amp_enabled=cfg.train.amp.enabled,
        amp_dtype=cfg.train.amp.dtype,
        clip_value=cfg.train.clip_gradients.value,
        clip_norm=cfg.train.clip_gradients.norm,
    )
    averaged, patience = _average(cfg, model), _patience(cfg)
    evaluated = model if averaged is None else averaged.module
    checkpointer = SafeCheckpointer(evaluated, str(output_dir), trainer=trainer)
    if averaged is not None:
        checkpointer.add_checkpointable("trained_model", model)
    if patience is not None:
        checkpointer.add_checkpointable("early_stopping", patience)
    scheduler_hook = hooks.LRScheduler(optimizer, build_scheduler(cfg, optimizer))
    evaluations: list[Evaluation] = []

    def evaluate() -> dict[str, Any]:
        # Detectron2's hook evaluates at the end even if the last iteration failed
        if trainer.iter == trainer.max_iter - 1:
            return {}
        sync_buffers(evaluated)
        final = trainer.iter >= trainer.max_iter
        evaluations.append(evaluate_model(cfg, evaluated, device, output_dir, final=final))
        return evaluations[-1].scalars()

    trainer.register_hooks([hooks.IterationTimer(), _averaging(averaged, model), scheduler_hook])
    start = _resume(checkpointer, trainer, resume)
    if start == 0 and detector_weights is not None:
        load_initial_weights(model, detector_weights, rpn_weights, list(cfg.train.freeze), classes)
    elif start == 0:
        _load_init_checkpoint(cfg, SafeCheckpointer(model), classes)
    if averaged is not None:
        averaged.n_averaged.fill_(start)  # 0: the first update copies the weights
        if start == 0:
            averaged.module.load_state_dict(model.state_dict())
    if start < cfg.train.max_iter:
        trainer.data_loader = build_train_data(cfg, start)
    elif cfg.train.max_iter == 0 and not checkpointer.has_checkpoint():
        comm.synchronize()  # all processes have looked for it
        checkpointer.save(FINAL_CHECKPOINT.removesuffix(".pth"), iteration=-1)
    if comm.is_main_process():
        forget_metrics_from(output_dir / "metrics.json", start)
    best = _best_checkpoint(cfg, checkpointer, resumed=start > 0)
    trainer.register_hooks(
        [
            _periodic_checkpointer(cfg, checkpointer) if comm.is_main_process() else None,
            MissedEvalHook(cfg.train.eval_period, evaluate, output_dir / "metrics.json"),
            best,
            _early_stopping(cfg, checkpointer, trainer, patience),
            build_writer_hook(output_dir, cfg.train.max_iter, cfg.train.log_period, writers),
            _balance_threads(cfg, device),
        ]
    )
    began = time.perf_counter()
    try:
        with deferred():
            trainer.train(start, cfg.train.max_iter)
    except BaseException as error:
        _save_completed(trainer, scheduler_hook, checkpointer, start, error)
        if isinstance(error, Interrupted):
            name, done = error.signal.name, trainer.completed_iters
            logger.info("Stopped by %s after %d iterations.", name, done)
            comm.synchronize()  # launchers end all processes when one ends
        if isinstance(error, NonFiniteLossError):
            raise NonFiniteLossError(f"{error}\n{_way_out(checkpointer)}") from error.__cause__
        raise
    seconds = time.perf_counter() - began
    iterations, stopped, kept = trainer.max_iter, trainer.stopped, best.kept if best else None
    return TrainingResult(evaluated, evaluations[-1], iterations, stopped, kept, seconds)


def _average(cfg: DictConfig, model: torch.nn.Module) -> AveragedModel | None:
    """Returns the moving average of a model and its buffers. None without `train.ema`."""
    decay = cfg.train.ema.decay
    if decay is None:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


def _averaging(averaged: AveragedModel | None, model: torch.nn.Module) -> hooks.HookBase | None:
    if averaged is None:
        return None
    return hooks.CallbackHook(after_step=lambda _: averaged.update_parameters(model))


def _best_checkpoint(
    cfg: DictConfig, checkpointer: SafeCheckpointer, resumed: bool
) -> BestCheckpoint | None:
    metric = cfg.train.checkpointer.best
    if metric is None or not comm.is_main_process():
        return None
    alike = not cfg.train.tta.enabled
    return BestCheckpoint(
        cfg.train.eval_period, checkpointer, metric, resumed=resumed, last_counts=alike
    )


def _patience(cfg: DictConfig) -> Patience | None:
    early = cfg.train.early_stopping
    if early.metric is None:
        return None
    return Patience(early.metric, early.patience, early.min_delta)


def _early_stopping(
    cfg: DictConfig, checkpointer: SafeCheckpointer, trainer: Trainer, patience: Patience | None
) -> EarlyStopping | None:
    if patience is None:
        return None

    def finish() -> None:
        trainer.stop()
        done = trainer.completed_iters
        name = FINAL_CHECKPOINT.removesuffix(".pth")
        checkpointer.save(name, iteration=done - 1, stopped_early=True)

    folder = Path(checkpointer.save_dir)
    return EarlyStopping(patience, cfg.train.eval_period, folder / "metrics.json", finish)


def sync_buffers(model: torch.nn.Module) -> None:
    """Copies the buffers of the first process to all (batch norm statistics differ)."""
    if comm.get_world_size() > 1:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, 0)


def _resume(checkpointer: SafeCheckpointer, trainer: Trainer, resume: bool) -> int:
    """Loads the last checkpoint when resuming; returns the number of iterations done."""
    if not checkpointer.has_checkpoint():
        return 0
    if not resume:
        raise UserError(
            f"{checkpointer.save_dir} already holds checkpoints of this config. Continue with "
            "--resume, start over in another directory with train.output_dir=..., or delete it."
        )
    load_last_whole_checkpoint(checkpointer)
    logger.info("Resuming after %d iterations.", trainer.iter + 1)
    done: int = trainer.iter + 1
    return done


def _periodic_checkpointer(
    cfg: DictConfig, checkpointer: SafeCheckpointer
) -> hooks.PeriodicCheckpointer:
    period, most = max(cfg.train.checkpointer.period, 1), cfg.train.checkpointer.max_to_keep
    hook = hooks.PeriodicCheckpointer(checkpointer, period, max_to_keep=most)
    hook.recent_checkpoints = keep_within_limit(checkpointer.save_dir, most)
    return hook


def _balance_threads(cfg: DictConfig, device: torch.device) -> hooks.HookBase | None:
    """Leaves cores to other processes, unless the threads are fixed or bits must not change."""
    fixed = choose_threads(cfg.train.num_threads).fixed
    if fixed or cfg.train.deterministic or device.type != "cpu" or comm.get_world_size() > 1:
        return None
    most = torch.get_num_threads()
    balance = ThreadBalance(most, torch.set_num_threads)
    return hooks.CallbackHook(
        after_step=lambda _: balance.update(), after_train=lambda _: torch.set_num_threads(most)
    )


def _way_out(checkpointer: SafeCheckpointer) -> str:
    """Returns advice for a diverging loss."""
    last = find_last_checkpoint(checkpointer.save_dir)
    if last is None:
        return "There is no checkpoint yet: start again with the changed settings."
    return (
        f"The last checkpoint, {last}, is from before. --resume would diverge again. To "
        f"continue from these weights with other settings, set +train.init_checkpoint={last} "
        "train.strict_init=false; the run gets another directory."
    )


def _load_init_checkpoint(
    cfg: DictConfig, checkpointer: SafeCheckpointer, classes: ClassMap | None
) -> None:
    path, model = str(cfg.train.init_checkpoint), checkpointer.model
    if not path:
        logger.info("train.init_checkpoint is empty: training from random weights.")
        return
    policy: Policy = "init" if cfg.train.strict_init else "relaxed"
    adapt = None if classes is None else lambda s: take_classes(model, s, classes, path)
    checkpointer.load(path, checkpointables=[], policy=policy, adapt=adapt)


def _save_completed(
    trainer: Trainer,
    scheduler_hook: hooks.LRScheduler,
    checkpointer: SafeCheckpointer,
    start: int,
    error: BaseException,
) -> None:
    """Saves the last completed iteration after an exception between two iterations."""
    done = trainer.completed_iters
    consistent = scheduler_hook.scheduler.last_epoch == done and not trainer.mid_step
    hopeless = isinstance(error, NonFiniteLossError) or full_storage(error) is not None
    if hopeless or done <= start or not consistent:
        return
    last = find_last_checkpoint(checkpointer.save_dir)
    if last is not None and checkpoint_facts(last)["iterations_done"] == done:
        return  # an evaluation failed
    trainer.iter = done - 1
    checkpointer.save(f"model_{done - 1:07d}", iteration=done - 1)
    logger.info("Saved iteration %d; --resume continues from it.", done - 1)
