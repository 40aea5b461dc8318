"""The head's class count follows a data set that is given by config keys alone."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from omegaconf import DictConfig

from mask_rcnn_repro.errors import ConfigError

logger = logging.getLogger(__name__)

KEY = "model.roi_heads.num_classes"
NAMES = "dataloader.train.dataset.names"


def fit_num_classes(cfg: DictConfig, overrides: Sequence[str] = ()) -> DictConfig:
    """Makes `model.roi_heads.num_classes` agree with the training data's classes.

    A data set given by `json`, or named on the command line, brings its own classes, so the count
    in the config file (80 for COCO) is replaced, with a notice, unless the command line sets it.
    For the data set that the config file names the count must already fit.

    Returns:
        `cfg`, changed in place.

    Raises:
        ConfigError: If the count was set and differs from the data's.
        DataError: If the json is missing or broken.
    """
    from mask_rcnn_repro.data import dataset_info

    heads = cfg.model.get("roi_heads")
    if heads is None or "num_classes" not in heads:
        return cfg
    dataset = cfg.dataloader.train.dataset
    info = dataset_info(dataset.names, dataset.get("json"), dataset.get("image_root"))
    if info is None:
        return cfg
    _check_test_classes(cfg, info)
    if heads.num_classes == len(info):
        return cfg
    given = {override.lstrip("+").partition("=")[0] for override in overrides}
    if KEY not in given and (dataset.get("json") or NAMES in given):
        source = dataset.get("json") or dataset.names
        logger.info("%s: %d -> %d, the classes of %s", KEY, heads.num_classes, len(info), source)
        heads.num_classes = len(info)
        return cfg
    raise ConfigError(
        f"{KEY} is {heads.num_classes}, but the training data {dataset.names} has {len(info)} "
        f"classes ({_first(info)}). Set {KEY}={len(info)}."
    )


def _check_test_classes(cfg: DictConfig, train_classes: list[str]) -> None:
    """The test set must have the classes that are learned, or numbers would be silently wrong."""
    from mask_rcnn_repro.data import dataset_info

    test = cfg.dataloader.test.dataset
    classes = dataset_info(test.names, test.get("json"), test.get("image_root"))
    if classes is None or classes == train_classes:
        return
    raise ConfigError(
        f"The test data {test.names} has {len(classes)} classes ({_first(classes)}), but the "
        f"training data {cfg.dataloader.train.dataset.names} has {len(train_classes)} "
        f"({_first(train_classes)}). Class k of the model must mean the same in both: choose "
        "dataloader.train.dataset and dataloader.test.dataset that belong together."
    )


def _first(names: list[str]) -> str:
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
