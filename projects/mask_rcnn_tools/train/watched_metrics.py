"""Check the names of the metrics that a training watches, before it starts."""

from __future__ import annotations

import difflib

from omegaconf import DictConfig

from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.evaluation.coco.numbers import METRIC_NAMES


def check_metrics(cfg: DictConfig) -> None:
    """Checks the names of metrics that a training watches.

    Raises:
        ConfigError: One is not of the form task/metric, or is none of the task's metrics.
    """
    watched = {
        "train.checkpointer.best": cfg.train.checkpointer.best,
        "train.early_stopping.metric": cfg.train.early_stopping.metric,
    }
    for key, metric in watched.items():
        task, _, name = (metric or "").partition("/")
        names = METRIC_NAMES.get(task, (name,))
        if metric is None or (task and name and name in names):
            continue
        known = [f"{known}/{n}" for known, values in METRIC_NAMES.items() for n in values]
        near = difflib.get_close_matches(metric, known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(
            f"{key}={metric!r} is no metric.{hint} Allowed are task/metric: {', '.join(known)}, "
            "proposals/AR@1000 and those of other evaluators."
        )
