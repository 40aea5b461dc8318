"""The keypoint branch follows the keypoints of a data set that is given by config keys alone."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from mask_rcnn_repro.errors import ConfigError

if TYPE_CHECKING:
    from mask_rcnn_repro.data.keypoint_metadata import KeypointSet

logger = logging.getLogger(__name__)

COUNT = "model.roi_heads.keypoint_head.num_keypoints"
FLIPS = "dataloader.train.mapper.keypoint_hflip_indices"
NAMES = "dataloader.train.dataset.names"


def fit_keypoints(cfg: DictConfig, overrides: Sequence[str] = ()) -> DictConfig:
    """Makes the keypoint head and the flips agree with the training data's keypoints.

    For a data set given by `json`, or named on the command line, the number of keypoints is
    replaced, with a notice, unless the command line sets it; for the one that the config file names
    it must already fit. Left and right in mirrored images are the data set's unless the config says
    otherwise. A config without a keypoint head stays as it is.

    Returns:
        `cfg`, changed in place.

    Raises:
        ConfigError: If a number, pairs or OKS sigmas do not fit the data's keypoints, the test data
            has other keypoints, or sigmas are needed and not known.
        DataError: If a json is missing or broken.
    """
    head = OmegaConf.select(cfg, "model.roi_heads.keypoint_head")
    if head is None:
        return cfg
    train = _keypoints_of(cfg, "train")
    if train is None:  # the loader says what is missing, if it comes to that
        return cfg
    _fit_count(cfg, head, train, overrides)
    _fit_flips(cfg, train)
    _check_test_data(cfg, train)
    return cfg


def _keypoints_of(cfg: DictConfig, split: str) -> KeypointSet | None:
    from mask_rcnn_repro.data import dataset_keypoints

    node = cfg.dataloader[split].dataset
    given = {
        key: OmegaConf.to_container(node[key]) if OmegaConf.is_config(node[key]) else node[key]
        for key in ("json", "image_root", "flip_pairs", "oks_sigmas")
        if node.get(key) is not None
    }
    return dataset_keypoints(node.names, **given)


def _fit_count(cfg: DictConfig, head: Any, train: KeypointSet, overrides: Sequence[str]) -> None:
    count = head.get("num_keypoints", 17)
    if count == len(train.names):
        return
    given = {override.lstrip("+").partition("=")[0] for override in overrides}
    dataset = cfg.dataloader.train.dataset
    if COUNT not in given and (dataset.get("json") or NAMES in given):
        source = dataset.get("json") or dataset.names
        logger.info("%s: %d -> %d, the keypoints of %s", COUNT, count, len(train.names), source)
        head.num_keypoints = len(train.names)
        return
    raise ConfigError(
        f"{COUNT} is {count}, but the training data {dataset.names} has {len(train.names)} "
        f"keypoints ({_first(train.names)}). Set {COUNT}={len(train.names)}."
    )


def _fit_flips(cfg: DictConfig, train: KeypointSet) -> None:
    from mask_rcnn_repro.data.keypoint_metadata import keypoint_flip_indices, one_sided

    mapper = cfg.dataloader.train.mapper
    if not mapper.get("use_keypoint"):
        return
    given = mapper.get("keypoint_hflip_indices")
    if given is not None:
        if [sorted(given), [given[i] for i in given]] != [list(range(len(train.names)))] * 2:
            raise ConfigError(
                f"{FLIPS} is {list(given)}, but the training data has {len(train.names)} "
                f"keypoints: it must hold each index from 0 to {len(train.names) - 1} once, and "
                f"those that change places must name each other. Leave it out: {train.flip_indices}"
                " follows from the data set."
            )
        return
    if alone := one_sided(train):
        raise ConfigError(
            f"The keypoints {', '.join(alone)} of {cfg.dataloader.train.dataset.names} say left or "
            "right, but have no partner to change places with in a mirrored image. State the pairs "
            f"of {_first(train.names)} in dataloader.train.dataset.flip_pairs (keypoint_flip_map "
            f"in the metadata of a registered data set), or set {FLIPS}."
        )
    if train.flip_indices != keypoint_flip_indices():
        pairs = ", ".join(f"{a} and {b}" for a, b in train.flip_pairs) or "none"
        logger.info("%s: changing places in mirrored images: %s", FLIPS, pairs)
        mapper.keypoint_hflip_indices = train.flip_indices


def _check_test_data(cfg: DictConfig, train: KeypointSet) -> None:
    """Told before training, not at its end."""
    test = _keypoints_of(cfg, "test")
    if test is None:
        return
    names = cfg.dataloader.test.dataset.names
    if test.names != train.names:
        raise ConfigError(
            f"The test data {names} has the keypoints {_first(test.names)}, but the training data "
            f"{cfg.dataloader.train.dataset.names} has {_first(train.names)}. Keypoint k of the "
            "model must mean the same in both: choose data sets that belong together."
        )
    if not test.sigmas:
        raise ConfigError(
            f"The test data {names} has {len(test.names)} keypoints of its own "
            f"({_first(test.names)}), and it is not known how precisely people can place each of "
            "them, on which the object keypoint similarity stands. Give dataloader.test.dataset."
            "oks_sigmas one number a keypoint (keypoint_oks_sigmas in the metadata of a registered "
            "data set); COCO's go from 0.025 (eyes) to 0.107 (hips)."
        )


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
