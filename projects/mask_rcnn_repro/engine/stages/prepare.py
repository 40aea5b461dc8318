"""Stage-wise training (section 3.1): provide what a run depends on.

:mod:`mask_rcnn_repro.engine.dependencies` finds the configs that a run depends on. Each has a run
of its own below `train.output_root`, with seed 0 or 1 (:func:`~.dependencies.stage_seed`), which
rows and seeds share. Stored proposals are in `<run of the RPN>/proposals/<data set>`
(docs/proposals.md), generated annotations in `<run of the teacher>/distilled/<data set>`
(docs/data_distillation.md), pre-trained weights in
:mod:`mask_rcnn_repro.engine.stages.pretrained`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from detectron2.utils import comm

from mask_rcnn_repro.config.stored_proposals import keeps_rpn
from mask_rcnn_repro.data.proposals.files import proposals_exist
from mask_rcnn_repro.engine.checkpoint.init_classes import class_map_of
from mask_rcnn_repro.engine.dependencies import (
    DataSet,
    command,
    data_sets,
    dependency,
    pretraining_of,
)
from mask_rcnn_repro.engine.extensions import Extensions
from mask_rcnn_repro.engine.run import Inputs, Run
from mask_rcnn_repro.engine.run_folder import open_run_folder, setup_logging
from mask_rcnn_repro.engine.stages.generated import (
    check_ids,
    facts_of,
    find_teacher,
    generate,
    generated_file,
    generated_images,
    outlived,
)
from mask_rcnn_repro.engine.stages.pretrained import (
    WEIGHTS_FILE,
    facts_of_weights,
    find_weights,
    store_weights,
)
from mask_rcnn_repro.engine.stages.stored_proposals import PROPOSAL_FOLDER, store_proposals
from mask_rcnn_repro.engine.stages.up_to_date import (
    check_config,
    check_finished,
    check_stored,
    check_trained,
    facts_of_run,
    stale,
)
from mask_rcnn_repro.engine.train.run import train_run
from mask_rcnn_repro.errors import CheckpointError, ConfigError
from mask_rcnn_repro.records import Record
from mask_rcnn_repro.utils.locks import exclusive

logger = logging.getLogger(__name__)


def prepare(run: Run, extensions: Extensions, *, eval_only: bool = False) -> Inputs:
    """Provides what a run depends on: makes what is missing and checks what exists.

    All processes of a run call it together.

    Args:
        run: The run that is about to start.
        extensions: See :func:`~mask_rcnn_repro.engine.train.run.train_run`.
        eval_only: Provide only the test proposals, without training. With test-time augmentation
            the RPN proposes for each view (unless it averages), and only its weights are checked.

    Returns:
        The inputs. Empty for joint training.

    Raises:
        ConfigError: The configs depend on each other in a circle, a run is of another kind or
            config than needed, or `run` has a mistake that would end it later.
        DataError: Stored proposals or generated annotations are of another config or other data.
        CheckpointError: With `eval_only`, the RPN is not trained yet.
    """
    return _prepare(run, (), None if eval_only else extensions)


def _prepare(run: Run, above: tuple[str, ...], trains_with: Extensions | None) -> Inputs:
    """As :func:`prepare`. `above` are the configs that depend on `run`; None trains nothing."""
    eval_only, cfg, chain = trains_with is None, run.cfg, (*above, run.config_id)
    train_folders: tuple[Path, ...] = ()
    test_folders: tuple[Path, ...] = ()
    weights = rpn_weights = pretrained = None
    proposals = init_from = source = None
    if cfg.train.init_from and trains_with is not None:
        source = dependency(run, cfg.train.init_from, chain)
        _ensure_trained(source, chain, trains_with, f"the initial weights of {run.config_id}")
        weights, init_from = source.checkpoint, facts_of_run(source)
    if (stage := pretraining_of(cfg)) and trains_with is not None:
        purpose = f"the initial weights of {run.config_id}"
        pretrained = _pretrained(dependency(run, stage, chain), chain, trains_with, purpose)
        init_from = facts_of_weights(pretrained)
    trains = trains_with is not None and cfg.train.max_iter > 0
    generated = _generated(run, chain, trains_with) if trains_with and trains else None
    generated_data, teacher = facts_of(generated) if generated is not None else (None, None)
    if cfg.train.proposals:
        rpn = dependency(run, cfg.train.proposals, chain)
        keeps = keeps_rpn(cfg)
        if trains:
            sets = data_sets(cfg, "train")
            if generated is not None:
                bits = sets[0].image_bits
                sets.append(replace(generated_images(generated), image_bits=bits))
            train_folders = _stored(rpn, sets, chain, trains_with)
        if not keeps and eval_only and cfg.train.tta.enabled and not cfg.train.tta.average_boxes:
            check_trained(rpn, f"the RPN of {run.config_id}")
        elif not keeps:
            test_folders = _stored(rpn, data_sets(cfg, "test"), chain, trains_with)
        elif trains_with is not None:
            _ensure_trained(rpn, chain, trains_with, f"the RPN of {run.config_id}")
            rpn_weights = rpn.checkpoint
        proposals = facts_of_run(rpn, *train_folders, *test_folders)
    setup_logging(run.folder)  # stages log into their own folders
    classes = None if eval_only else class_map_of(cfg, None if source is None else source.cfg)
    return Inputs(
        train_proposals=train_folders,
        test_proposals=test_folders,
        initial_weights=weights,
        rpn_weights=rpn_weights,
        classes=classes,
        proposals=proposals,
        init_from=init_from,
        pretrained=pretrained,
        generated=generated,
        generated_data=generated_data,
        teacher=teacher,
    )


def _pretrained(run: Run, chain: tuple[str, ...], extensions: Extensions, purpose: str) -> Path:
    """Returns the weights of a pre-training stage, after training it if there are none."""
    file = find_weights(run)
    if not _agreed(file is not None):
        _ensure_trained(run, chain, extensions, purpose)
        store_weights(run)
    elif _agreed(file == run.folder / WEIGHTS_FILE):
        check_finished(run, purpose)
    file = file or run.folder / WEIGHTS_FILE
    logger.info("%s starts from %s.", chain[-1], file)
    return file


def _generated(run: Run, chain: tuple[str, ...], extensions: Extensions) -> Path | None:
    """Returns the generated annotations that a run is trained on, after its teacher made them."""
    teacher = find_teacher(run, chain)
    file = generated_file(run, teacher)
    if teacher is None or _agreed(outlived(run, teacher)):
        return file
    if not _agreed(file is not None and file.is_file()):
        check_ids(run.cfg)
    _ensure_trained(teacher, chain, extensions, f"the teacher of {run.config_id}")
    return generate(run, teacher, extensions)


def train_stage(run: Run, inputs: Inputs, extensions: Extensions, *, resume: bool) -> Record | None:
    """Trains a run. An RPN stage then stores the proposals of its data, a classifier its weights.

    Returns:
        The record. None in all processes but the first.
    """
    record = train_run(run, inputs, extensions, resume=resume)
    store_results(run)
    return record


def store_results(run: Run) -> None:
    """Stores what a trained stage lacks: proposals for its own data, or a classifier's weights."""
    if run.is_classifier:
        store_weights(run)
    for split in ("train", "test") if run.is_rpn else ():
        _stored(run, data_sets(run.cfg, split), (), None)


def _ensure_trained(run: Run, chain: tuple[str, ...], extensions: Extensions, purpose: str) -> None:
    """Runs a config to its end unless its directory holds the finished run."""
    if _agreed(run.finished_record() is not None and run.checkpoint.is_file()):
        check_finished(run, purpose)
        return
    with exclusive(run.folder, purpose=purpose, wait=True) as waited:
        # another run may have finished it meanwhile
        if waited and run.finished_record() is not None and run.checkpoint.is_file():
            check_finished(run, purpose)
            return
        logger.info("Missing: %s. Running %s first, in %s.", purpose, run.config_id, run.folder)
        try:
            open_run_folder(run.folder, run.cfg)
        except ConfigError as error:
            raise stale(run, purpose, error) from None
        train_stage(run, _prepare(run, chain, extensions), extensions, resume=True)
        comm.synchronize()


def _stored(
    rpn: Run, sets: Sequence[DataSet], chain: tuple[str, ...], trains_with: Extensions | None
) -> tuple[Path, ...]:
    """Returns a directory of stored proposals per data set, after making those that are missing."""
    folders = []
    for data in sets:
        folder = rpn.folder / PROPOSAL_FOLDER / data.folder
        exists = _agreed(proposals_exist(folder))
        if not exists:
            purpose = f"the proposals for {data.name}"
            if trains_with is not None:
                _ensure_trained(rpn, chain, trains_with, purpose)
            elif not rpn.checkpoint.is_file():
                raise CheckpointError(
                    f"There are no proposals of {rpn.config_id} for {data.name}, and no trained "
                    f"RPN in {rpn.folder} to make them. An evaluation trains nothing: run\n"
                    f"  {command(rpn)}\nfirst."
                )
            else:  # its training data need not be here
                check_config(rpn, purpose)
        # training an RPN stores the proposals of its own data
        if not exists and not _agreed(proposals_exist(folder)):
            lock = ".proposals.lock"  # this process may hold the lock of the run
            with exclusive(
                rpn.folder, purpose="its proposals", wait=True, lock_file=lock
            ) as waited:
                if not (waited and proposals_exist(folder)):
                    store_proposals(rpn, data, folder)
        check_stored(rpn, data, folder)
        folders.append(folder)
    return tuple(folders)


def _agreed(flag: bool) -> bool:
    """Returns what the first process sees; others may see new files later."""
    return bool(comm.all_gather(flag)[0])
