"""What a training does with its evaluations: keep the best checkpoint, end early."""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

from detectron2.engine import hooks
from detectron2.utils import comm

from mask_rcnn_repro.engine.checkpoint.checkpointer import SafeCheckpointer
from mask_rcnn_repro.engine.checkpoint.safe_load import safe_torch_load
from mask_rcnn_repro.errors import DamagedCheckpointError
from mask_rcnn_repro.records.curves import metrics_rows

logger = logging.getLogger(__name__)

BEST_CHECKPOINT = "model_best.pth"


class BestCheckpoint(hooks.BestCheckpointer):
    """Detectron2's hook, with a best value that a resumed training knows.

    Writes ``model_best.pth``, which holds the metric and its value as `best`. The pointer
    ``last_checkpoint`` does not change, so that a training never resumes from it.

    Args:
        period: Iterations between evaluations.
        checkpointer: Checkpointer of the run.
        metric: Metric in the event storage, such as "segm/AP". Higher is better.
        resumed: Whether the run continues, and with it the file in its directory.
        last_counts: Whether the evaluation after the last iteration is like the others.

    Attributes:
        kept: Metric, value and number of iterations of ``model_best.pth``. None without that file.
    """

    def __init__(
        self,
        period: int,
        checkpointer: SafeCheckpointer,
        metric: str,
        *,
        resumed: bool,
        last_counts: bool = True,
    ) -> None:
        super().__init__(period, self, metric)
        self._run_checkpointer = checkpointer
        self._last_counts = last_counts
        self._file = Path(checkpointer.save_dir, BEST_CHECKPOINT)
        self.kept: dict[str, Any] | None = None
        if resumed and self._file.is_file():
            try:
                held = safe_torch_load(self._file, mmap=True)
            except DamagedCheckpointError as error:
                logger.error("%s The next evaluation replaces it.", error)
                return
            if held.get("best", {}).get("metric") == metric:
                self.best_metric, self.best_iter = held["best"]["value"], held["iteration"]
                self.kept = {**held["best"], "iteration": held["iteration"] + 1}

    def before_train(self) -> None:
        """Considers an evaluation that was caught up on."""
        if self._val_metric in self.trainer.storage.latest():
            self._best_checking()

    def after_train(self) -> None:
        """Considers the last evaluation, and reports the best one."""
        if self._last_counts:
            super().after_train()
        if self.best_metric is not None:
            logger.info("Best %s: %.3f, in %s", self._val_metric, self.best_metric, self._file)

    def save(self, name: str, **_: Any) -> None:
        """Saves the weights of the last completed iteration. The base class calls it."""
        value, _iteration = self.trainer.storage.latest()[self._val_metric]
        best = {"metric": self._val_metric, "value": float(value)}
        done = self.trainer.completed_iters
        self._run_checkpointer.save(name, last=False, iteration=done - 1, best=best)
        self.kept = {**best, "iteration": done}


class Patience:
    """Counts evaluations without progress.

    Args:
        metric: Metric in the event storage, such as "segm/AP". Higher is better.
        most: Number of consecutive evaluations without progress that is too many.
        min_delta: Difference to the best value that is needed for progress.
    """

    def __init__(self, metric: str, most: int, min_delta: float = 0.0) -> None:
        self.metric = metric
        self.most = most
        self.min_delta = min_delta
        self.best: float | None = None
        self.waited = 0
        self.iteration = -1  # of the last evaluation that was counted

    def add(self, iteration: int, value: float) -> None:
        """Counts the evaluation at an iteration, once."""
        if iteration <= self.iteration:
            return
        self.iteration = iteration
        if self.best is None or value > self.best + self.min_delta:
            self.best, self.waited = value, 0
        else:
            self.waited += 1

    @property
    def exhausted(self) -> bool:
        """Whether there were too many evaluations without progress."""
        return self.waited >= self.most

    def state_dict(self) -> dict[str, Any]:
        """Returns the counts."""
        return {"best": self.best, "waited": self.waited, "iteration": self.iteration}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the counts."""
        self.best, self.waited, self.iteration = operator.itemgetter("best", "waited", "iteration")(
            state
        )


class EarlyStopping(hooks.HookBase):
    """Ends the training when patience is exhausted. Must follow the hook that evaluates.

    Args:
        patience: Restored from the checkpoint of a resumed training.
        period: Iterations between evaluations.
        metrics_file: `metrics.json` of the run, which has the evaluations after that checkpoint.
        finish: Called in all processes when the training is to end.
    """

    def __init__(
        self, patience: Patience, period: int, metrics_file: Path, finish: Callable[[], None]
    ) -> None:
        self._patience = patience
        self._period = period
        self._metrics_file = metrics_file
        self._finish = finish

    def before_train(self) -> None:
        """Counts the evaluations that the checkpoint does not know."""
        metric = self._patience.metric
        for row in metrics_rows(self._metrics_file) if comm.is_main_process() else ():
            if metric in row:
                self._patience.add(row["iteration"], row[metric])
        if self.trainer.start_iter > 0:
            self._decide()

    def after_step(self) -> None:
        """Counts an evaluation of this iteration."""
        done = self.trainer.iter + 1
        if done % self._period == 0 and done != self.trainer.max_iter:
            self._decide()

    def _decide(self) -> None:
        patience, found = self._patience, self.trainer.storage.latest().get(self._patience.metric)
        if found is not None:
            patience.add(found[1], found[0])
        elif comm.is_main_process() and patience.best is None:
            logger.warning("%s was not computed: no early stopping.", patience.metric)
        if comm.all_gather(patience.exhausted)[0]:
            logger.info(
                "Stopping after %d iterations: %s has not exceeded %.3f by more than %g in %d "
                "evaluations.",
                *(self.trainer.completed_iters, patience.metric, patience.best or 0.0),
                *(patience.min_delta, patience.waited),
            )
            self._finish()
