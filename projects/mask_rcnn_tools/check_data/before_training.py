"""The brief check at the start of every training; `train.check_data=false` disables it.

It checks all annotations and opens some images of each data set. Findings are logged and stop
nothing: the loaders refuse what cannot be trained on.
"""

from __future__ import annotations

import logging
import os
import shlex
import time
from collections.abc import Sequence

from detectron2.utils import comm
from omegaconf import DictConfig

from mask_rcnn_repro.data.registration import coco_parts
from mask_rcnn_repro.errors import UserError
from mask_rcnn_tools.check_data.check import Options, check
from mask_rcnn_tools.check_data.findings import Report
from mask_rcnn_tools.check_data.sources import SPLITS, sources_of
from mask_rcnn_tools.check_data.text import summary

logger = logging.getLogger(__name__)

IMAGES = 64
"""Images of each data set that are opened."""

_LARGEST = 1 << 30  # bytes; twice COCO's, some 30 seconds
_LEVELS = {"error": logging.ERROR, "warning": logging.WARNING}


def check_before_training(
    cfg: DictConfig, config_file: str, overrides: Sequence[str] = ()
) -> Report | None:
    """Checks the data of a config briefly and logs errors and warnings.

    Args:
        cfg: a validated config.
        config_file: its file or id, for the command that shows the whole report.
        overrides: those of the command line, for the same.

    Returns:
        The report; None where nothing was checked: by `train.check_data`, off the first process, or
        because a file is too large for a brief look.
    """
    if not cfg.train.check_data or not comm.is_main_process():
        return None
    began = time.perf_counter()
    profile = cfg.train.profile
    scale = [] if profile == "paper" else ["--profile", profile]
    command = shlex.join(["tools/check_data.py", "--config-file", config_file, *scale, *overrides])
    try:
        large = _larger_files(cfg, _LARGEST)
        if large:
            logger.info(
                "The data is not checked: %s is larger than %d MiB. %s checks it.",
                *(large[0], _LARGEST >> 20, command),
            )
            return None
        report = Report("Data")
        check(sources_of(cfg, report), report, Options(sample=IMAGES))
    except Exception as error:  # a check must not cost a training
        logger.warning("The data could not be checked: %s: %s", type(error).__name__, error)
        return None
    for finding in report.findings:
        if finding.level in _LEVELS:
            logger.log(
                _LEVELS[finding.level],
                "Data [%s, %s]: %s: %d, such as %s. %s",
                *(finding.split, finding.source, finding.title, finding.count),
                *(finding.examples[0], finding.fix),
            )
    logger.info(
        "Data checked in %.1f s: %s. The whole report: %s",
        time.perf_counter() - began,
        summary(report).rstrip("."),
        command,
    )
    return report


def _larger_files(cfg: DictConfig, limit: int) -> list[str]:
    """Annotation files of more than `limit` bytes."""
    found = []
    for split in SPLITS:
        node = cfg.dataloader[split].dataset
        files = [node.get("json")]
        if files == [None]:
            names = [node.names] if isinstance(node.names, str) else node.names
            try:
                files = [part.json_file for name in names for part in coco_parts(name) or ()]
            except UserError:
                files = []
        found += [f for f in files if os.path.isfile(f) and os.path.getsize(f) > limit]
    return found
