"""The output folder of a run: logging into it, metrics that survive a resume."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from detectron2.engine import hooks
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter, EventWriter, JSONWriter, TensorboardXWriter
from detectron2.utils.logger import setup_logger

from mask_rcnn_repro.engine.atomic import atomic_write
from mask_rcnn_repro.errors import UserError

LOGGERS = ("detectron2", "fvcore", "mask_rcnn_repro")


class _NoTracebackForUserErrors(logging.Filter):
    """Detectron2's trainer logs every exception with its traceback; a user's mistake needs none."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], UserError):
            record.exc_info = None
            record.msg = "Training stopped, see the error below."
        return True


def setup_logging(output_dir: Path) -> None:
    """Logs to stdout (first process) and to `<output_dir>/log.txt` (`.rank<k>` for the others)."""
    output_dir.mkdir(parents=True, exist_ok=True)
    for name in LOGGERS:
        known = logging.getLogger(name)
        for handler in list(known.handlers):
            known.removeHandler(handler)
        abbreviation = {"detectron2": "d2", "mask_rcnn_repro": "run"}.get(name, name)
        setup_logger(
            str(output_dir), comm.get_rank(), name=name, abbrev_name=abbreviation, color=False
        )
    logging.getLogger("detectron2.engine.train_loop").addFilter(_NoTracebackForUserErrors())
    # iopath mentions every file that it cannot count for telemetry
    logging.getLogger("iopath").setLevel(logging.ERROR)


def forget_metrics_from(metrics_file: Path, iteration: int) -> None:
    """Drops the lines of `metrics.json` from `iteration` on: a resumed run writes them again."""
    if not metrics_file.is_file():
        return
    kept = []
    for line in metrics_file.read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:  # the line that a kill cut short
            continue
        if row.get("iteration", 0) < iteration:
            kept.append(line + "\n")
    with atomic_write(metrics_file) as file:
        file.write("".join(kept).encode())


def build_writers(output_dir: Path, max_iter: int) -> list[EventWriter]:
    """Returns the printer (with an ETA), the `metrics.json` writer and TensorBoard's."""
    return [
        CommonMetricPrinter(max_iter),
        JSONWriter(str(output_dir / "metrics.json")),
        TensorboardXWriter(str(output_dir / "tensorboard")),
    ]


def build_writer_hook(output_dir: Path, max_iter: int, period: int) -> hooks.PeriodicWriter | None:
    """Returns the hook that writes metrics every `period` iterations; None off rank 0."""
    if not comm.is_main_process():
        return None
    return hooks.PeriodicWriter(build_writers(output_dir, max_iter), period=max(period, 1))
