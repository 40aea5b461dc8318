"""Makes the curves of an earlier run from the files in its directory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mask_rcnn_repro.engine.run import METRICS_FILE, RECORD_FILE
from mask_rcnn_repro.errors import DataError
from mask_rcnn_repro.evaluation.coco.evaluator import CocoEvaluator
from mask_rcnn_repro.evaluation.coco.precision_recall import PrecisionRecall
from mask_rcnn_repro.evaluation.registry import build_evaluator
from mask_rcnn_repro.records.curves import Curves, make_curves
from mask_rcnn_repro.records.record import Record, load_record
from mask_rcnn_repro.registration import register

RESULTS_FOLDER = "inference"
"""Directory of the result files of an evaluation, in the directory of the run."""

_SAME = 1e-6  # percent; numbers of one backend on other data differ by far more


def curves_of_run(folder: Path) -> Curves:
    """Makes the curves of a finished run: learning from `metrics.json`, precision over recall from
    its result files, which are measured again.

    Precision over recall is omitted if the metrics of the data set have none (Cityscapes), the run
    detects nothing (an RPN), or the result files are missing.

    Args:
        folder: Directory of the run, with `record.json`.

    Raises:
        RecordError: There is no record.
        DataError: The results, measured again, differ from those of the record.
    """
    register()
    record = load_record(folder / RECORD_FILE)
    return make_curves(record, folder / METRICS_FILE, _precision_recall(record, folder))


def _precision_recall(record: Record, folder: Path) -> Mapping[str, PrecisionRecall[str]]:
    if record.test_data is None or not record.metrics or "proposals" in record.metrics:
        return {}
    evaluator = build_evaluator(record.test_data.name, str(folder / RESULTS_FOLDER))
    if not isinstance(evaluator, CocoEvaluator):
        return {}
    metrics = evaluator.evaluate_files()
    _check_same(record, metrics, folder)
    return evaluator.curves


def _check_same(record: Record, metrics: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
    for task, values in metrics.items():
        known = record.metrics.get(task)
        ours = known.values().get("AP") if known else None
        again = values["AP"]
        if (ours is None) != math.isnan(again) or (
            ours is not None and not abs(again - ours) < _SAME
        ):
            raise DataError(
                f"The result files in {folder / RESULTS_FOLDER} give {task} AP {again:.4f}, the "
                f"record beside them has {ours}. They are of another evaluation, or "
                f"{record.test_data.name if record.test_data else 'the data set'} has changed: "
                "evaluate the run again (train_net.py --eval-only --resume)."
            )
