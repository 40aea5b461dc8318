"""Write the results of a run: `record.json`, `curves.json` and drawn examples."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.utils import comm

from mask_rcnn_repro.engine.evaluate import RESULTS_FOLDER
from mask_rcnn_repro.engine.extensions import Extensions
from mask_rcnn_repro.engine.run import METRICS_FILE, RECORD_FILE, Evaluation, Inputs, Run
from mask_rcnn_repro.records import Record, make_record, save_record
from mask_rcnn_repro.records.curves import CURVES_FILE, make_curves, save_curves

logger = logging.getLogger(__name__)

DRAWINGS_FOLDER = "drawings"  # in the directory of a run


def write_record(
    run: Run,
    inputs: Inputs,
    evaluation: Evaluation,
    *,
    mode: str,
    iterations_done: int | None,
    stopped_early: bool = False,
    best: Mapping[str, Any] | None = None,
    checkpoint: Path | str,
    train_seconds: float | None,
) -> Record | None:
    """Writes `record.json` and `curves.json` into the directory of a run.

    Returns:
        The record. None in all processes but the first.
    """
    if not comm.is_main_process():
        return None
    trained = mode == "train"
    record = make_record(
        run.cfg,
        config_id=run.config_id,
        profile=run.profile,
        overrides=run.overrides,
        mode=mode,
        metrics=evaluation.metrics,
        seconds_per_image=evaluation.seconds_per_image,
        evaluator_backend=evaluation.computed_by,
        iterations_done=iterations_done,
        stopped_early=stopped_early,
        best=best,
        checkpoint=checkpoint,
        train_seconds=train_seconds,
        device=run.device,
        proposals=inputs.proposals,
        init_from=inputs.init_from if trained else None,
        generated_data=inputs.generated_data if trained else None,
        teacher=inputs.teacher if trained else None,
    )
    save_record(record, run.folder / RECORD_FILE)
    logger.info("Record written to %s", run.folder / RECORD_FILE)
    curves = make_curves(record, run.folder / METRICS_FILE, evaluation.curves)
    save_curves(curves, run.folder / CURVES_FILE)
    return record


def add_to_record(run: Run, record: Record | None, extensions: Extensions) -> None:
    """Adds what :class:`~.extensions.Extensions` compute from the result files of a record."""
    if record is not None and extensions.resample is not None:
        extensions.resample(record, run.folder / RESULTS_FOLDER, run.folder / "bootstrap.json")
    _draw_examples(run, extensions)


def _draw_examples(run: Run, extensions: Extensions) -> None:
    """Draws `train.draw` test images into `drawings/`. A failure is logged: the record stays."""
    draw = extensions.draw
    if draw is None or run.cfg.train.draw <= 0 or not comm.is_main_process():
        return
    names, count = run.cfg.dataloader.test.dataset.names, run.cfg.train.draw
    try:
        draw(names, run.folder / RESULTS_FOLDER, run.folder / DRAWINGS_FOLDER, count)
    except Exception as error:
        logger.warning("Nothing was drawn: %s: %s", type(error).__name__, error)
