"""Checks the configs that a run depends on, before the command writes or trains anything."""

from __future__ import annotations

import torch
from omegaconf import OmegaConf

from mask_rcnn_repro.config.combinations import effective
from mask_rcnn_repro.config.stored_proposals import keeps_rpn
from mask_rcnn_repro.data import dataset_fingerprint
from mask_rcnn_repro.data.generated.mixed_dataset import check_mixture
from mask_rcnn_repro.engine.builders import build_model, check_batch_size
from mask_rcnn_repro.engine.checkpoint.init_classes import class_map_of
from mask_rcnn_repro.engine.dependencies import (
    STAGES,
    check_rpn,
    check_stage_seeds,
    dependency,
    pretraining_of,
    teacher_of,
    unlabeled_of,
)
from mask_rcnn_repro.engine.run import Run, began_with
from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.utils.checkpoint_paths import check_exists

_DATASET = "dataloader.train.dataset"


def check_dependencies(run: Run, *, eval_only: bool = False, above: tuple[str, ...] = ()) -> None:
    """Checks the configs that a run depends on, before anything is written.

    Args:
        run: The run. It may depend on nothing.
        eval_only: See :func:`~mask_rcnn_repro.engine.stages.prepare.prepare`.
        above: Ids of the configs that depend on the run.

    Raises:
        ConfigError: See :func:`~mask_rcnn_repro.engine.stages.prepare.prepare`. Also if a training
            that has begun, or `run` itself, stands on stages of other seeds.
        CheckpointError: The run has not begun, and the file `train.init_checkpoint` is missing.
    """
    if not eval_only:
        if run.has_begun and (not above or run.finished_record() is None):
            check_stage_seeds(run, began_with(run.folder))
        if not above and not run.has_begun and not run.cfg.train.init_from:
            check_exists("" if pretraining_of(run.cfg) else str(run.cfg.train.init_checkpoint))
        _check_early(run)
    chain, train = (*above, run.config_id), run.cfg.train
    found: dict[str | None, Run] = {}
    teacher, pretraining = (
        None if eval_only else of(run.cfg) for of in (teacher_of, pretraining_of)
    )
    others = (train.init_from, train.proposals, teacher, pretraining)
    for path in dict.fromkeys(filter(None, others)):
        other = found[path] = dependency(run, path, chain)
        if path == train.proposals:
            check_rpn(run, other)
        if path == teacher:
            _check_teacher(run, other)
        if path == pretraining and not other.is_classifier:
            raise ConfigError(
                f"train.init_checkpoint names {other.config_id}, which is no pre-training stage. "
                "Name a config of configs/pretrain/ or one like it, or start from another run with "
                f"train.init_from={path}."
            )
        check_dependencies(other, eval_only=eval_only, above=chain)
    if not eval_only:
        source, rpn = found.get(train.init_from), found.get(train.proposals)
        class_map_of(run.cfg, source and source.cfg)
        if source and rpn and keeps_rpn(run.cfg):
            _check_shared(run, source, rpn)


def _check_shared(run: Run, source: Run, rpn: Run) -> None:
    """Checks that the initial weights and the RPN of `run` have the same backbone."""
    own, other = _backbone_of(source), _backbone_of(rpn)
    if own is None or other is None or own.folder == other.folder:
        return
    used, trained = (f"seed {of.cfg.train.seed} of {of.config_id}" for of in (own, other))
    raise ConfigError(
        f"{run.config_id} and its RPN {rpn.config_id} (seed {rpn.cfg.train.seed}) do not share "
        f"features: the backbone is that of {used} here and of {trained} there. Name an RPN with "
        "train.freeze=[backbone] and the same train.init_from. train.stage_seed, if set, must be "
        f"from 0 to {STAGES - 1} here: a stage uses seed s mod {STAGES} of its own stages."
    )


def _backbone_of(run: Run) -> Run | None:
    """Returns the run that trained the backbone of `run`; None if it is that of a file."""
    while run.cfg.train.max_iter == 0 or "backbone" in run.cfg.train.freeze:
        if not run.cfg.train.init_from:
            return None
        run = dependency(run, run.cfg.train.init_from, ())
    return run


def _check_teacher(run: Run, teacher: Run) -> None:
    """Checks that a teacher predicts what `run` learns, and that the images to annotate exist.

    Raises:
        ConfigError: The teacher lacks a head that `run` has, or the images are not known.
        DataError: The list of images is missing.
    """
    if OmegaConf.select(teacher.cfg, "model.roi_heads") is None:
        raise ConfigError(
            f"{_DATASET}.teacher names {teacher.config_id}, whose model has no RoI heads. Name the "
            "config of a detector."
        )
    for head in ("mask_head", "keypoint_head"):
        key = f"model.roi_heads.{head}"
        learned, made = OmegaConf.select(run.cfg, key), OmegaConf.select(teacher.cfg, key)
        if learned is not None and made is None:
            raise ConfigError(
                f"{run.config_id} has a {head}, but its teacher {teacher.config_id} has none. "
                f"Name another config in {_DATASET}.teacher."
            )
    dataset_fingerprint(unlabeled_of(run.cfg).name)  # the images' list is there


def _check_early(run: Run) -> None:
    """Reports mistakes in `run` before the runs that it depends on are trained."""
    cfg = run.cfg
    part = effective(cfg, f"{_DATASET}.generated_part")
    if part is not None and cfg.train.max_iter > 0:
        node = cfg.dataloader.train.dataset
        check_mixture(node.get("generated"), part, node.get("teacher"))
    if not (cfg.train.proposals or cfg.train.init_from or teacher_of(cfg)):
        return
    check_batch_size(cfg)
    if cfg.train.proposals and keeps_rpn(cfg) and not cfg.train.init_from:
        raise ConfigError(
            f"{run.config_id} shares features with its RPN ({cfg.train.proposals}), but "
            "train.init_from is null. Set train.init_from to the config whose backbone that RPN "
            "was trained on."
        )
    if cfg.train.freeze:
        build_model(cfg, torch.device("cpu"))
