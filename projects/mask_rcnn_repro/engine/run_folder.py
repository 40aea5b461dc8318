"""The output directory of a run: its log, and metrics that survive a resume."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from logging.handlers import MemoryHandler
from pathlib import Path

from detectron2.engine import hooks
from detectron2.utils import comm
from detectron2.utils.events import (
    CommonMetricPrinter,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
)
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig

from mask_rcnn_repro.config import claim_output_dir
from mask_rcnn_repro.engine.hosts import check_hosts_agree
from mask_rcnn_repro.errors import UserError
from mask_rcnn_repro.records.curves import metrics_rows
from mask_rcnn_repro.utils.atomic import atomic_write_text

OUR_LOGGERS = ("mask_rcnn_embedded", "mask_rcnn_repro", "mask_rcnn_tools")
LOGGERS = ("detectron2", "fvcore", *OUR_LOGGERS)

QUIET_LOGGERS = (
    "iopath",  # mentions every file that it cannot count for telemetry
    "detectron2.data.common",  # how it serializes a data set, three lines each time
)


class _NoTracebackForUserErrors(logging.Filter):
    """Removes the traceback of a user-fixable error from the log of Detectron2's trainer."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], UserError):
            record.exc_info = None
            record.msg = "Training stopped, see the error below."
        return True


@contextmanager
def keep_logs() -> Iterator[list[logging.LogRecord]]:
    """Collects log records until :func:`setup_logging` knows the output directory."""
    early = MemoryHandler(capacity=1000, flushLevel=logging.CRITICAL + 1)
    for name in OUR_LOGGERS:
        logging.getLogger(name).setLevel(logging.INFO)
        logging.getLogger(name).addHandler(early)
    try:
        yield early.buffer
    finally:
        for name in OUR_LOGGERS:
            logging.getLogger(name).removeHandler(early)


def _is_first_mention(record: logging.LogRecord) -> bool:
    """Drops the line of Detectron2's checkpointer that fvcore's checkpointer repeats."""
    return not str(record.msg).startswith("[DetectionCheckpointer] Loading from")


def setup_logging(output_dir: Path, earlier: Sequence[logging.LogRecord] = ()) -> None:
    """Logs to stdout (first process) and to `<output_dir>/log.txt` (`.rank<k>` for the others).

    Args:
        output_dir: Created if needed.
        earlier: Records from :func:`keep_logs`, which come first.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    setup_logger.cache_clear()  # its cache would ignore a directory that was used before
    for name in LOGGERS:
        known = logging.getLogger(name)
        for handler in list(known.handlers):
            known.removeHandler(handler)
        abbreviation = "run" if name in OUR_LOGGERS else {"detectron2": "d2"}.get(name, name)
        setup_logger(
            str(output_dir.absolute()),  # open files are cached by name
            comm.get_rank(),
            name=name,
            abbrev_name=abbreviation,
            color=sys.stdout.isatty(),
        )
    logging.getLogger("detectron2.engine.train_loop").addFilter(_NoTracebackForUserErrors())
    logging.getLogger("detectron2.checkpoint.detection_checkpoint").addFilter(_is_first_mention)
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    for record in earlier:
        logging.getLogger(record.name).handle(record)


def open_run_folder(
    folder: Path, cfg: DictConfig, earlier: Sequence[logging.LogRecord] = ()
) -> None:
    """Claims the output directory of a run and logs into it. All processes call it together.

    Args:
        folder: Output directory. Created if needed.
        cfg: The validated config.
        earlier: Log records from :func:`keep_logs`, which come first.

    Raises:
        ConfigError: The directory holds another config.
        UserError: Hosts see different checkpoints.
    """
    if comm.is_main_process():
        claim_output_dir(folder, cfg)
    comm.synchronize()
    setup_logging(folder, earlier)
    check_hosts_agree(folder)


def forget_metrics_from(metrics_file: Path, iteration: int) -> None:
    """Drops the lines of `metrics.json` from `iteration` on. A resumed run writes them again."""
    if not metrics_file.is_file():
        return
    kept = [row for row in metrics_rows(metrics_file) if row["iteration"] < iteration]
    lines = [json.dumps(row, sort_keys=True) + "\n" for row in kept]  # as JSONWriter does
    atomic_write_text(metrics_file, "".join(lines))


class _PrinterOnce(CommonMetricPrinter):
    """Prints each iteration once. Detectron2's printer divides by zero when it prints twice."""

    _printed = -1

    def write(self) -> None:
        """Prints the current iteration, unless it was printed."""
        iteration = get_event_storage().iter
        if iteration != self._printed:
            super().write()
        self._printed = iteration


def build_writer_hook(
    output_dir: Path, max_iter: int, period: int, writers: Sequence[EventWriter] | None = None
) -> hooks.PeriodicWriter | None:
    """Returns the hook that writes metrics every `period` iterations; None off rank 0.

    Args:
        output_dir: Directory of `metrics.json`.
        max_iter: Iterations of the run.
        period: Iterations between two writes.
        writers: Other writers. None for TensorBoard's.
    """
    if not comm.is_main_process():
        return None
    if writers is None:
        writers = [TensorboardXWriter(str(output_dir / "tensorboard"))]
    ours = [_PrinterOnce(max_iter), JSONWriter(str(output_dir / "metrics.json"))]
    return hooks.PeriodicWriter([*ours, *writers], period=max(period, 1))
