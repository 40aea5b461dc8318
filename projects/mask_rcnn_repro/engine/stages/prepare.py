"""Stage-wise training (section 3.1): what a run depends on is run first and shared.

A row names its RPN stage in `train.proposals`, for fine-tuning the run that it starts from in
`train.init_from`, and for data distillation the run whose model generates annotations in
`dataset.teacher`. All are configs of their own with runs of their own, always of seed 0, below
`train.output_root`; every row and seed that names them uses the same ones. Stored proposals lie in
`<run of the RPN>/proposals/<data set>` (docs/proposals.md), generated annotations in `<run of the
teacher>/distilled/<data set>` (docs/data_distillation.md). Nothing that exists is made again: what
no longer fits its config or data stops the run with its name.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.config import instantiate
from detectron2.utils import comm

from mask_rcnn_repro.config import (
    claim_output_dir,
    config_hash,
)
from mask_rcnn_repro.config.stored_proposals import keeps_rpn
from mask_rcnn_repro.data import dataset_fingerprint
from mask_rcnn_repro.data.proposals.files import ProposalFile, check_proposals, proposals_exist
from mask_rcnn_repro.distillation.teacher import (
    check_ids,
    facts_of,
    find_teacher,
    generate,
    generated_file,
    generated_images,
    outlived,
)
from mask_rcnn_repro.engine.checkpoint.checkpointer import SafeCheckpointer
from mask_rcnn_repro.engine.checkpoint.init_classes import class_map_of
from mask_rcnn_repro.engine.run import Inputs, Run
from mask_rcnn_repro.engine.run_folder import setup_logging
from mask_rcnn_repro.engine.stages.dependencies import (
    DataSet,
    command,
    data_sets,
    dependency,
)
from mask_rcnn_repro.engine.train.builders import build_model
from mask_rcnn_repro.engine.train.seeding import seed_everything
from mask_rcnn_repro.engine.train.trainer import autocast_context
from mask_rcnn_repro.errors import CheckpointError, ConfigError, DataError
from mask_rcnn_repro.evaluation.loop import evaluate
from mask_rcnn_repro.evaluation.proposals.evaluator import ProposalStore
from mask_rcnn_repro.records.record import Record
from mask_rcnn_repro.utils.locks import exclusive

logger = logging.getLogger(__name__)

PROPOSAL_FOLDER = "proposals"


def prepare(run: Run, *, eval_only: bool = False) -> Inputs:
    """Provides what `run` depends on: makes what is missing, checks what is there.

    All processes of a run call it together.

    Args:
        run: Run that is about to start.
        eval_only: Only the test proposals are needed, and no model is trained for them; with
            test-time augmentation not even they, but the trained RPN, which proposes for each view.

    Returns:
        The files; empty for a joint run.

    Raises:
        ConfigError: The configs depend on each other in a circle, `train.proposals` names something
            that is no RPN or stores fewer proposals than are asked for, the teacher does not
            predict what `run` learns, a run that is depended on is of another config, or a mistake
            that would end `run` itself later.
        DataError: Stored proposals or generated annotations are stale: made by another config or
            for other data.
        CheckpointError: With `eval_only`, an RPN that is not trained yet.
    """
    return _prepare(run, eval_only=eval_only, above=())


def _prepare(run: Run, *, eval_only: bool, above: tuple[str, ...]) -> Inputs:
    cfg = run.cfg
    chain = (*above, run.config_id)
    train_folders: tuple[Path, ...] = ()
    test_folders: tuple[Path, ...] = ()
    weights = rpn_weights = None
    proposals = init_from = source = None
    if cfg.train.init_from and not eval_only:
        source = dependency(run, cfg.train.init_from, chain)
        _ensure_trained(source, chain, f"the initial weights of {run.config_id}")
        weights, init_from = source.checkpoint, _facts(source)
    trains = not eval_only and cfg.train.max_iter > 0
    generated = _generated(run, chain) if trains else None
    generated_data, teacher = facts_of(generated) if generated is not None else (None, None)
    if cfg.train.proposals:
        rpn = dependency(run, cfg.train.proposals, chain)
        keeps = keeps_rpn(cfg)
        if trains:
            sets = data_sets(cfg, "train")
            if generated is not None:
                sets.append(generated_images(generated))
            train_folders = _stored(rpn, sets, chain, may_train=True)
        if not keeps and eval_only and cfg.train.tta.enabled:
            _check_trained(rpn, f"the RPN of {run.config_id}")
        elif not keeps:
            test_folders = _stored(rpn, data_sets(cfg, "test"), chain, may_train=not eval_only)
        elif not eval_only:
            _ensure_trained(rpn, chain, f"the RPN of {run.config_id}")
            rpn_weights = rpn.checkpoint
        proposals = _facts(rpn, *train_folders, *test_folders)
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
        generated=generated,
        generated_data=generated_data,
        teacher=teacher,
    )


def _generated(run: Run, chain: tuple[str, ...]) -> Path | None:
    """The generated annotations that a run is trained on, made by its teacher where it has one."""
    teacher = find_teacher(run, chain)
    if teacher is None or _agreed(outlived(run, teacher)):
        return generated_file(run, teacher)
    file = generated_file(run, teacher)
    if not _agreed(file is not None and file.is_file()):
        check_ids(run.cfg)
    _ensure_trained(teacher, chain, f"the teacher of {run.config_id}")
    return generate(run, teacher)


def train_stage(run: Run, inputs: Inputs, *, resume: bool) -> Record | None:
    """Trains a run and, if it is an RPN stage, stores the proposals of its data.

    Returns:
        The record; None off the first process.
    """
    record = run.train(inputs, resume)
    if run.is_rpn:
        store_own_proposals(run)
    return record


def store_own_proposals(run: Run) -> None:
    """Stores the proposals of a trained RPN for its own training and test data, where missing."""
    for split in ("train", "test"):
        _stored(run, data_sets(run.cfg, split), (), may_train=False)


def _ensure_trained(run: Run, chain: tuple[str, ...], purpose: str) -> None:
    """Runs a config to its end unless its folder holds the finished run."""
    if _agreed(run.finished_record() is not None and run.checkpoint.is_file()):
        _check_folder(run, purpose)
        return
    with exclusive(run.folder, purpose=purpose, wait=True) as waited:
        # another run may have made it meanwhile
        if waited and run.finished_record() is not None and run.checkpoint.is_file():
            _check_folder(run, purpose)
        else:
            _run_first(run, chain, purpose)


def _run_first(run: Run, chain: tuple[str, ...], purpose: str) -> None:
    logger.info("Missing: %s. Running %s first, in %s.", purpose, run.config_id, run.folder)
    try:
        run.open()
    except ConfigError as error:
        raise _stale(run, purpose, error) from None
    inputs = _prepare(run, eval_only=False, above=chain)
    train_stage(run, inputs, resume=True)
    comm.synchronize()


def _check_folder(run: Run, purpose: str) -> None:
    """A finished run must be of this config, on this data."""
    _check_config(run, purpose)
    record = run.finished_record()
    if record is None or record.train_data is None:
        return
    now = _fingerprint(data_sets(run.cfg, "train"))
    if record.train_data.fingerprint != now:
        raise DataError(
            f"The run in {run.folder}, which gives {purpose}, is stale: it was trained on other "
            f"data ({record.train_data.name}: {record.train_data.fingerprint[:19]}... then, "
            f"{now[:19]}... now). Delete the folder to have it run again."
        )
    if record.generated_data is None:
        return
    # annotations that are no longer there are not needed for what was trained on them
    file = generated_file(run, find_teacher(run, ()))
    if file is None or not file.is_file():
        return
    facts, _ = facts_of(file)
    if record.generated_data.fingerprint != facts["fingerprint"]:
        raise DataError(
            f"The run in {run.folder}, which gives {purpose}, is stale: it was trained on other "
            f"generated annotations than those in {file} now. Delete the folder to have it run "
            "again."
        )


def _check_trained(run: Run, purpose: str) -> None:
    if not run.checkpoint.is_file():
        raise CheckpointError(
            f"There are no weights of {run.config_id}, {purpose}, in {run.folder}. An evaluation "
            f"trains nothing: run\n  {command(run)}\nfirst."
        )
    _check_config(run, purpose)


def _check_config(run: Run, purpose: str) -> None:
    try:
        if comm.is_main_process():
            claim_output_dir(run.folder, run.cfg)
    except ConfigError as error:
        raise _stale(run, purpose, error) from None


def _stale(run: Run, purpose: str, error: ConfigError) -> ConfigError:
    return ConfigError(
        f"{run.folder} is stale: {run.config_id}, which gives {purpose}, has changed since.\n"
        f"{error}\nDelete the folder to have it run again, with its proposals."
    )


def _fingerprint(sets: Sequence[DataSet]) -> str:
    first = sets[0]
    names = [d.name for d in sets]
    facts = dataset_fingerprint(names, first.json, first.image_root)
    return f"sha256:{facts['sha256']}"


def _stored(
    rpn: Run, sets: Sequence[DataSet], chain: tuple[str, ...], *, may_train: bool
) -> tuple[Path, ...]:
    """Folders of the RPN's proposals for some data sets, made where they are missing."""
    folders = []
    for data in sets:
        folder = rpn.folder / PROPOSAL_FOLDER / data.folder
        exists = _agreed(proposals_exist(folder))
        if not exists:
            purpose = f"the proposals for {data.name}"
            if may_train:
                _ensure_trained(rpn, chain, purpose)
            elif not rpn.checkpoint.is_file():
                raise CheckpointError(
                    f"There are no proposals of {rpn.config_id} for {data.name}, and no trained "
                    f"RPN in {rpn.folder} to make them. An evaluation trains nothing: run\n"
                    f"  {command(rpn)}\nfirst."
                )
            else:  # its training data need not be here
                _check_config(rpn, purpose)
        # training an RPN stores the proposals of its own data
        if not exists and not _agreed(proposals_exist(folder)):
            with exclusive(
                rpn.folder,
                purpose="its proposals",
                wait=True,
                lock_file=".proposals.lock",  # the run's own may be held, by this very process
            ) as waited:
                if not (waited and proposals_exist(folder)):
                    _store(rpn, data, folder)
        check_proposals(folder, fingerprint=_fingerprint([data]), source_hash=config_hash(rpn.cfg))
        _check_weights(rpn, folder)
        folders.append(folder)
    return tuple(folders)


def _check_weights(rpn: Run, folder: Path) -> None:
    """Proposals must be of the RPN that lies beside them, if one does."""
    record = rpn.finished_record()
    now = record.checkpoint.sha256 if record is not None and record.checkpoint else None
    then = ProposalFile(folder).info.source.get("checkpoint_sha256")
    if now is not None and then is not None and now != then:
        raise DataError(
            f"The stored proposals in {folder} are stale: they were made by other weights "
            f"({then[:12]}...) of {rpn.config_id} than those beside them ({now[:12]}...). Delete "
            f"{folder} to have them made again."
        )


def _store(rpn: Run, data: DataSet, folder: Path) -> None:
    """Runs a trained RPN over a data set; as many proposals an image as it trains with, if it was
    trained on these images or a row will be, and as many as at test otherwise.
    """
    setup_logging(rpn.folder)
    cfg = copy.deepcopy(rpn.cfg)
    trains_on_it = data.unlabeled or data in data_sets(cfg, "train")
    generator = cfg.model.proposal_generator
    for key in ("pre_nms_topk", "post_nms_topk"):
        count = generator[key][0 if trains_on_it else 1]
        generator[key] = [count, count]
    node = cfg.dataloader.test.dataset
    node.update({k: v for k, v in data.keys().items() if v is not None or k in node})
    logger.info("Storing the proposals of %s for %s in %s.", rpn.config_id, data.name, folder)
    seed_everything(cfg.train.seed)
    model = build_model(cfg, rpn.device)
    loaded = SafeCheckpointer(model, str(rpn.folder)).load(
        str(rpn.checkpoint), checkpointables=[], policy="exact"
    )
    amp = cfg.train.amp
    evaluate(
        model,
        instantiate(cfg.dataloader.test),
        ProposalStore(
            folder,
            data.name,
            source=_source(rpn, loaded.get("iteration")),
            topk=generator.post_nms_topk[1],
        ),
        autocast=lambda: autocast_context(rpn.device, amp.enabled, amp.dtype),
    )
    comm.synchronize()


def _agreed(flag: bool) -> bool:
    """What the first process sees: files appear at slightly different times to the others."""
    return bool(comm.all_gather(flag)[0])


def _source(rpn: Run, last_iteration: Any) -> dict[str, Any]:
    """What stored proposals say about the RPN that made them."""
    facts = _facts(rpn)
    return {
        "config": facts["id"],
        "profile": rpn.profile,
        "config_hash": facts["hash"],
        "seed": facts["seed"],
        "checkpoint_sha256": facts["checkpoint"],
        "iterations": None if last_iteration is None else last_iteration + 1,
        "recall": facts["recall"],
    }


def _facts(run: Run, *stored: Path) -> dict[str, Any]:
    """What records and proposal files say about a run that they stand on.

    Args:
        run: The run.
        stored: Folders of the proposals that it gives, if it gives them. They may have outlived its
            record, and know which weights they are from.
    """
    record = run.finished_record()
    found = record.metrics.get("proposals") if record is not None else None
    facts = {
        "id": run.config_id,
        "hash": config_hash(run.cfg),
        "seed": run.cfg.train.seed,
        "checkpoint": record.checkpoint.sha256 if record and record.checkpoint else None,
        "recall": found.values() if found is not None else None,
    }
    for folder in stored[:1]:
        source = ProposalFile(folder).info.source
        known = {"checkpoint": source.get("checkpoint_sha256"), "recall": source.get("recall")}
        facts.update({key: value for key, value in known.items() if value is not None})
    return facts
