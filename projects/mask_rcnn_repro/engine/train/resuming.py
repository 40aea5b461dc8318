"""Resume a run: find an undamaged checkpoint, catch up on evaluations, remove surplus files."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from detectron2.engine import hooks
from detectron2.utils import comm

from mask_rcnn_repro.engine.checkpoint.checkpointer import (
    SafeCheckpointer,
    find_last_checkpoint,
)
from mask_rcnn_repro.errors import CheckpointError, DamagedCheckpointError
from mask_rcnn_repro.records.curves import metrics_rows

logger = logging.getLogger(__name__)

DAMAGED_SUFFIX = ".damaged"

_PERIODIC = re.compile(r"^model_(\d{7,})\.pth$")
_TASKS = ("bbox/", "segm/", "keypoints/", "proposals/")


def load_last_whole_checkpoint(checkpointer: SafeCheckpointer) -> Path:
    """Loads the newest undamaged checkpoint.

    The checksums inside a checkpoint are verified. Damaged files are logged and get the suffix
    ``.damaged``. All processes of a run call it together and load the same file.

    Args:
        checkpointer: Checkpointer of a directory that has a last checkpoint.

    Returns:
        The loaded file.

    Raises:
        CheckpointError: The checkpoint does not fit the model, or all are damaged.
    """
    last = Path(checkpointer.get_checkpoint_file())
    candidates = [last, *(f for f in reversed(periodic_checkpoints(last.parent)) if f != last)]
    damaged: list[str] = []
    for file in candidates:
        fault = ""
        try:
            checkpointer.load(str(file), policy="exact")
        except DamagedCheckpointError as error:
            fault = str(error)
        faults = [text for text in comm.all_gather(fault) if text]
        if not faults:
            if damaged and comm.is_main_process():
                _put_aside(checkpointer, damaged, file)
            comm.synchronize()
            return file
        logger.error("%s Trying the checkpoint before it.", faults[0])
        damaged.append(str(file))
    raise CheckpointError(
        f"All checkpoints in {last.parent} are damaged: {', '.join(damaged)}. The disk may be "
        "failing. Delete the directory to start over, or restore a copy of a checkpoint."
    )


def _put_aside(checkpointer: SafeCheckpointer, damaged: list[str], used: Path) -> None:
    checkpointer.tag_last_checkpoint(used.name)  # before the file that it names is renamed
    for name in damaged:
        os.replace(name, name + DAMAGED_SUFFIX)
    logger.error(
        "Continuing from %s. Damaged files were renamed to *%s: %s.",
        *(used, DAMAGED_SUFFIX, ", ".join(damaged)),
    )


def periodic_checkpoints(folder: str | os.PathLike[str]) -> list[Path]:
    """Returns the numbered checkpoints in a directory, oldest first."""
    found = [(match, f) for f in Path(folder).glob("*.pth") if (match := _PERIODIC.match(f.name))]
    return [file for _, file in sorted(found, key=lambda pair: int(pair[0].group(1)))]


def keep_within_limit(folder: str | os.PathLike[str], most: int) -> list[str]:
    """Removes surplus checkpoints that earlier starts of a run have left.

    Args:
        folder: Directory of the run. The last checkpoint is never removed.
        most: Number of checkpoints to keep, the newest ones.

    Returns:
        The remaining files, oldest first, for Detectron2's hook.
    """
    present = periodic_checkpoints(folder)
    last = find_last_checkpoint(folder)
    surplus = [f for f in present[: max(len(present) - most, 0)] if f != last]
    for file in surplus:
        file.unlink(missing_ok=True)
    return [str(file) for file in present if file not in surplus]


class MissedEvalHook(hooks.EvalHook):
    """Evaluates periodically, and first catches up on an evaluation that a stop prevented.

    Args:
        period: Iterations between evaluations.
        evaluate: See Detectron2's hook.
        metrics_file: `metrics.json` of the run, which shows what was evaluated.
    """

    def __init__(
        self, period: int, evaluate: Callable[[], dict[str, Any]], metrics_file: Path
    ) -> None:
        super().__init__(period, evaluate)
        self._metrics_file = metrics_file

    def before_train(self) -> None:
        """Evaluates the last completed iteration if that was due and is missing."""
        done = self.trainer.start_iter
        if not 0 < done < self.trainer.max_iter or self._period <= 0 or done % self._period:
            return
        missed = comm.all_gather(not _was_evaluated(self._metrics_file, done - 1))[0]
        if missed:
            logger.info("Evaluating iteration %d, which was due when the run stopped.", done)
            self.trainer.iter = self.trainer.storage.iter = done - 1
            self._do_eval()
            self.trainer.iter = self.trainer.storage.iter = done


def _was_evaluated(metrics_file: Path, iteration: int) -> bool:
    rows = (row for row in metrics_rows(metrics_file) if row["iteration"] == iteration)
    return any(key.startswith(_TASKS) for row in rows for key in row)
