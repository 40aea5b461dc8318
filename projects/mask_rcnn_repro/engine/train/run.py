"""Train a run from its inputs to its record."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.utils import comm

from mask_rcnn_repro.engine.checkpoint.checkpointer import find_last_checkpoint
from mask_rcnn_repro.engine.evaluate import check_test_data
from mask_rcnn_repro.engine.extensions import Extensions, RunWriter
from mask_rcnn_repro.engine.results import DRAWINGS_FOLDER, add_to_record, write_record
from mask_rcnn_repro.engine.run import INPUTS_FILE, Inputs, Run, began_with
from mask_rcnn_repro.engine.train.loop import train
from mask_rcnn_repro.errors import DataError
from mask_rcnn_repro.records import Record
from mask_rcnn_repro.records.provenance import dataset_info
from mask_rcnn_repro.utils.atomic import atomic_write_text

logger = logging.getLogger(__name__)

_INPUTS = {  # that must not change during a run, by key in `inputs.json`
    "proposals": "the proposals of other weights",
    "init_from": "other initial weights",
    "teacher": "annotations of another teacher",
    "generated_data": "other generated annotations",
    "train_data": "other training data",
}


def train_run(run: Run, inputs: Inputs, extensions: Extensions, *, resume: bool) -> Record | None:
    """Checks the data, trains, evaluates and writes the record.

    All processes of a run call it together.

    Args:
        run: The run, after :func:`~mask_rcnn_repro.engine.run_folder.open_run_folder`.
        inputs: What the run takes from other runs.
        extensions: Data check and drawings.
        resume: See :func:`~mask_rcnn_repro.engine.train.loop.train`.

    Returns:
        The record. None in all processes but the first.

    Raises:
        DataError: An input has changed since the run began, or the data cannot be trained on.
    """
    _keep_inputs(run, inputs)
    cfg = inputs.fill(run.cfg)
    if extensions.check_data is not None:
        extensions.check_data(cfg, str(run.file or run.config_id), run.overrides)
    if comm.is_main_process():
        check_test_data(cfg, run.folder)
    writers = None
    if comm.is_main_process() and extensions.writers is not None:
        writers = extensions.writers(run)
    result = train(
        cfg,
        run.folder,
        run.device,
        resume,
        detector_weights=inputs.initial_weights,
        rpn_weights=inputs.rpn_weights,
        classes=inputs.classes,
        writers=writers,
    )
    record = write_record(
        run,
        inputs,
        result.evaluation,
        mode="train",
        iterations_done=result.iterations,
        stopped_early=result.stopped_early,
        best=result.best,
        checkpoint=run.checkpoint,
        train_seconds=result.seconds,
    )
    add_to_record(run, record, extensions)
    if record is not None:
        _finish(run, record, writers or ())
    comm.synchronize()
    return record


def _finish(run: Run, record: Record, writers: Sequence[RunWriter]) -> None:
    """Hands the results to the writers. A failure is logged: the record stays."""
    images = sorted((run.folder / DRAWINGS_FOLDER).glob("*.png")) if run.cfg.train.draw else []
    for writer in writers:
        try:
            writer.finish(record, images)
        except Exception as error:  # of any library
            logger.warning("%s: %s: %s", type(writer).__name__, type(error).__name__, error)


def _keep_inputs(run: Run, inputs: Inputs) -> None:
    """Writes `inputs.json`, or compares it with the inputs of a run that has begun."""
    now = {key: getattr(inputs, key, None) for key in _INPUTS}
    if run.cfg.train.max_iter > 0:
        now["train_data"] = dataset_info(run.cfg.dataloader.train)
    begun = find_last_checkpoint(run.folder) is not None
    then = began_with(run.folder) if begun else {}
    for key, facts in now.items():
        old, new = (_identity(f) for f in (then.get(key, facts), facts))
        if old != new:
            raise DataError(
                f"The run in {run.folder} began with {_INPUTS[key]} ({old}) than there are now "
                f"({new}). Delete the directory to start over, or restore what it began with."
            )
    comm.synchronize()
    if comm.is_main_process() and not then:
        atomic_write_text(run.folder / INPUTS_FILE, json.dumps(now, indent=2) + "\n")


def _identity(facts: Mapping[str, Any] | None) -> Any:
    """Returns what identifies an input: a fingerprint of annotations or weights, else a run."""
    if not facts:
        return None
    known = facts.get("fingerprint") or facts.get("checkpoint")
    return known or f"seed {facts.get('seed')} of {facts.get('id')} {facts.get('hash')}"
