"""Find the runs that `--resume` could have meant."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from omegaconf import DictConfig

from mask_rcnn_repro.config.output_dir import differences_from
from mask_rcnn_repro.engine.checkpoint.checkpointer import checkpoint_facts, find_last_checkpoint
from mask_rcnn_repro.errors import CheckpointError

logger = logging.getLogger(__name__)

_DEFAULT_NAME = re.compile(r"^(seed\d+)(-[0-9a-f]{8})?$")


def report_other_runs(folder: Path, cfg: DictConfig) -> None:
    """Warns if `--resume` starts anew beside runs of the same config with other overrides.

    Args:
        folder: Default output directory of the run. Nothing is reported if it has a checkpoint.
        cfg: Config of the run.
    """
    match = _DEFAULT_NAME.match(folder.name)
    if match is None or find_last_checkpoint(folder) is not None or not folder.parent.is_dir():
        return
    for other in sorted(folder.parent.iterdir()):
        found = _DEFAULT_NAME.match(other.name)
        if other == folder or found is None or found[1] != match[1]:
            continue
        try:
            last = find_last_checkpoint(other)
            done = None if last is None else checkpoint_facts(last)["iterations_done"]
        except CheckpointError:
            continue
        if last is not None:
            logger.warning(
                "--resume finds no checkpoint in %s and starts at iteration 0. %s holds a run of "
                "the same config with other settings (%s), which has done %s iterations. To resume "
                "it: --config-file %s --resume. To start from its weights: "
                "train.init_checkpoint=%s",
                *(folder, other, differences_from(other, cfg) or "unknown", done, other, last),
            )
