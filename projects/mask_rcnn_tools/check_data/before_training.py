"""The brief check at the start of every training; `train.check_data=false` disables it.

It checks all annotations and opens some images of each data set. Missing data ends the run before
anything is downloaded. All other findings are logged. The loaders refuse data that cannot be used.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import time
from collections.abc import Sequence

from detectron2.utils import comm
from omegaconf import DictConfig

from mask_rcnn_repro.data.registration import coco_parts
from mask_rcnn_repro.errors import DataError, UserError
from mask_rcnn_tools.check_data.check import Options, check
from mask_rcnn_tools.check_data.findings import Report
from mask_rcnn_tools.check_data.sources import SPLITS, sources_of
from mask_rcnn_tools.check_data.text import summary

logger = logging.getLogger(__name__)

IMAGES = 64
"""Number of images of each data set that are opened."""

_LARGEST = 1 << 30  # bytes; twice COCO's, some 30 seconds
_LEVELS = {"error": logging.ERROR, "warning": logging.WARNING}


def check_before_training(
    cfg: DictConfig, config_file: str, overrides: Sequence[str] = ()
) -> Report | None:
    """Checks the data of a config briefly and logs errors and warnings.

    All processes of a run call it together.

    Args:
        cfg: A validated config.
        config_file: Its file or id, for the command that prints the whole report.
        overrides: Overrides of the command line, for the same.

    Returns:
        The report. None if nothing was checked: `train.check_data` is false, this is not the first
        process, or a file is too large for a brief check.

    Raises:
        DataError: An annotation file or images are missing, or an annotation file cannot be used.
    """
    if not cfg.train.check_data:
        return None
    report = _check(cfg, config_file, overrides) if comm.is_main_process() else None
    # the other processes would start a training that waits for the first
    problem = comm.all_gather(report and _missing(report, cfg))[0]
    if problem:
        raise DataError(problem)
    return report


def _missing(report: Report, cfg: DictConfig) -> str | None:
    """Describes the first finding that prevents a training."""
    for finding in report.findings:
        if finding.split == "train" and cfg.train.max_iter == 0:
            continue  # it is not read
        where = f"The {finding.split} data {finding.source}"
        if finding.kind == "not-readable":
            return f"{where} cannot be used: {finding.examples[0]}"
        if finding.kind == "missing-image":
            return (
                f"{where} lacks images: {finding.count} of at most {IMAGES} that were looked for "
                f"in {_image_roots(cfg, finding.split)}, such as {finding.examples[0]}. Give the "
                f"right directory (dataloader.{finding.split}.dataset.image_root for data of your "
                "own), fetch them, or remove their records from the json."
            )
    return None


def _image_roots(cfg: DictConfig, split: str) -> str:
    """Returns the directories that are searched for the images of a split."""
    node = cfg.dataloader[split].dataset
    names = [node.names] if isinstance(node.names, str) else node.names
    given = node.get("image_root")
    found = [part.image_root for name in names for part in coco_parts(name) or ()]
    return ", ".join(dict.fromkeys([str(given)] if given else found)) or "their places"


def _check(cfg: DictConfig, config_file: str, overrides: Sequence[str]) -> Report | None:
    _make_generated(cfg)
    began = time.perf_counter()
    profile = cfg.train.profile
    saved = config_file.endswith((".yaml", ".yml")) or os.path.isdir(config_file)
    scale = [] if profile == "paper" or saved else ["--profile", profile]
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


def _make_generated(cfg: DictConfig) -> None:
    """Generates data that is not in the cache, to exclude this time from that of the check."""
    for split in SPLITS:
        node = cfg.dataloader[split].dataset
        for name in [node.names] if isinstance(node.names, str) else node.names:
            with contextlib.suppress(Exception):  # the check reports it
                if node.get("json") is None:
                    coco_parts(name)


def _larger_files(cfg: DictConfig, limit: int) -> list[str]:
    """Returns annotation files of more than `limit` bytes."""
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
