"""What a config takes from its data: classes, keypoints, left and right, bits of the images.

A data set that is given by `json` or named on the command line brings its own classes and
keypoints. They replace the numbers in the config file unless the command line sets them. The data
set that the config file names must fit the config file.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from mask_rcnn_repro.config.targets import target_signature
from mask_rcnn_repro.errors import ConfigError

if TYPE_CHECKING:
    from mask_rcnn_repro.data.keypoint_metadata import KeypointSet

logger = logging.getLogger(__name__)

CLASSES = "model.roi_heads.num_classes"
KEYPOINTS = "model.roi_heads.keypoint_head.num_keypoints"
FLIPS = "dataloader.train.mapper.keypoint_hflip_indices"
NAMES = "dataloader.train.dataset.names"


def fit_to_data(cfg: DictConfig, overrides: Sequence[str] = ()) -> DictConfig:
    """Makes the heads of a config agree with its training data.

    Left and right in mirrored images are the data set's unless the config sets them. A config
    without RoI heads or without a keypoint head keeps what concerns them.

    Args:
        cfg: A validated config.
        overrides: Overrides of the command line, which have the last word.

    Returns:
        `cfg`, changed in place.

    Raises:
        ConfigError: If a number, flip pairs or OKS sigmas do not fit the data, the test data has
            other classes or keypoints, or sigmas are needed and unknown.
        DataError: If a json is missing or broken.
    """
    return _fit_keypoints(fit_num_classes(_fit_image_bits(cfg), overrides), overrides)


def fit_num_classes(cfg: DictConfig, overrides: Sequence[str] = ()) -> DictConfig:
    """Makes the number of classes agree with the training data; see :func:`fit_to_data`."""
    from mask_rcnn_repro.data import dataset_info

    key = CLASSES if cfg.model.get("roi_heads") is not None else "model.backbone.num_classes"
    node = OmegaConf.select(cfg, key.rpartition(".")[0])
    if node is None or "num_classes" not in node:
        return cfg
    train, test = (cfg.dataloader[split].dataset for split in ("train", "test"))
    classes = dataset_info(train.names, train.get("json"), train.get("image_root"))
    if classes is None:
        return cfg
    tested = dataset_info(test.names, test.get("json"), test.get("image_root"))
    if tested is not None and tested != classes:
        raise ConfigError(
            f"The test data {test.names} has {len(tested)} classes ({_first(tested)}), but the "
            f"training data {train.names} has {len(classes)} ({_first(classes)}). Class k of the "
            "model must mean the same in both: choose dataloader.train.dataset and "
            "dataloader.test.dataset that belong together."
        )
    _fit_number(cfg, overrides, key, node, node.num_classes, classes)
    return cfg


def _fit_image_bits(cfg: DictConfig) -> DictConfig:
    """Gives training and test data one `dataset.image_bits`, that of the training data."""
    from mask_rcnn_repro.data import datasets

    nodes = [cfg.dataloader[split].dataset for split in ("train", "test")]
    keys = [(node.names, node.get("json"), node.get("image_root")) for node in nodes]
    if not all("image_bits" in target_signature(node.get("_target_")).params for node in nodes):
        return cfg
    bits = nodes[0].get("image_bits")
    if bits is None and (bits := datasets.dataset_image_bits(*keys[0])) is None:
        return cfg
    for node, given in zip(nodes, keys, strict=True):
        if node.get("image_bits") is None:
            node.image_bits = bits
        datasets.register_names(*given, image_bits=node.image_bits)
    if bits < 16:
        logger.warning(
            "%s: the 16-bit images use %d bits, so values from 0 to %d are scaled to 8 bits. Set "
            "dataloader.train.dataset.image_bits to scale from another range.",
            *(nodes[0].get("json") or nodes[0].names, bits, 2**bits - 1),
        )
    return cfg


def _fit_keypoints(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    head = OmegaConf.select(cfg, "model.roi_heads.keypoint_head")
    train = None if head is None else _keypoints_of(cfg, "train")
    if train is None:  # the loader reports what is missing, if keypoints are needed
        return cfg
    _fit_number(cfg, overrides, KEYPOINTS, head, head.get("num_keypoints", 17), train.names)
    _fit_flips(cfg, train)
    _check_test_keypoints(cfg, train)
    return cfg


def _fit_number(
    cfg: DictConfig,
    overrides: Sequence[str],
    key: str,
    node: Any,
    number: int,
    names: Sequence[str],
) -> None:
    """Sets the last part of `key` in `node` to the number of names, or refuses the difference."""
    if number == len(names):
        return
    what = "keypoints" if key == KEYPOINTS else "classes"
    given = {override.lstrip("+").partition("=")[0] for override in overrides}
    dataset = cfg.dataloader.train.dataset
    if key not in given and (dataset.get("json") or NAMES in given):
        source = dataset.get("json") or dataset.names
        logger.info("%s: %d -> %d, the %s of %s", key, number, len(names), what, source)
        node[key.rpartition(".")[2]] = len(names)
        return
    raise ConfigError(
        f"{key} is {number}, but the training data {dataset.names} has {len(names)} {what} "
        f"({_first(names)}). Set {key}={len(names)}."
    )


def _keypoints_of(cfg: DictConfig, split: str) -> KeypointSet | None:
    from mask_rcnn_repro.data import dataset_keypoints

    node = cfg.dataloader[split].dataset
    given = {
        key: OmegaConf.to_container(node[key]) if OmegaConf.is_config(node[key]) else node[key]
        for key in ("json", "image_root", "flip_pairs", "oks_sigmas")
        if node.get(key) is not None
    }
    return dataset_keypoints(node.names, **given)


def _fit_flips(cfg: DictConfig, train: KeypointSet) -> None:
    from mask_rcnn_repro.data import keypoint_metadata

    mapper = cfg.dataloader.train.mapper
    if not mapper.get("use_keypoint"):
        return
    given = mapper.get("keypoint_hflip_indices")
    if given is not None:
        each = list(range(len(train.names)))
        if sorted(given) != each or [given[i] for i in given] != each:
            raise ConfigError(
                f"{FLIPS} is {list(given)}, but the training data has {len(train.names)} "
                f"keypoints. It must hold each index from 0 to {len(train.names) - 1} once, and "
                "two that change places must name each other. Omit it to take "
                f"{train.flip_indices} from the data set."
            )
        return
    if alone := keypoint_metadata.one_sided(train):
        raise ConfigError(
            f"The keypoints {', '.join(alone)} of {cfg.dataloader.train.dataset.names} have left "
            "or right in their names, but no partner to change places with in a mirrored image. "
            f"Give the pairs of {_first(train.names)} in dataloader.train.dataset.flip_pairs "
            "(keypoint_flip_map in the metadata of a registered data set), or set "
            f"{FLIPS}."
        )
    if keypoint_metadata.lacks_pairs(train) and _flips(mapper.get("augmentations")):
        dataset = cfg.dataloader.train.dataset
        key = (
            "dataloader.train.dataset.flip_pairs"
            if dataset.get("json")
            else "keypoint_flip_map in the metadata of the data set"
        )
        raise ConfigError(
            f"Training mirrors images, but no two keypoints of {dataset.names} have names that "
            f"differ in left and right alone ({_first(train.names)}). Set {key} to the pairs that "
            "change places, such as [[ear_a, ear_b]], or to [] for a symmetric object."
        )
    if train.flip_indices != keypoint_metadata.keypoint_flip_indices():
        pairs = ", ".join(f"{a} and {b}" for a, b in train.flip_pairs) or "none"
        logger.info("%s: changing places in mirrored images: %s", FLIPS, pairs)
        mapper.keypoint_hflip_indices = train.flip_indices


def _flips(augmentations: Any) -> bool:
    """Whether augmentations mirror images from left to right."""
    if isinstance(augmentations, DictConfig):
        if "RandomFlip" in str(augmentations.get("_target_", "")):
            return augmentations.get("horizontal") is not False and augmentations.get("prob") != 0
        return any(_flips(value) for value in augmentations.values())
    return isinstance(augmentations, ListConfig) and any(_flips(node) for node in augmentations)


def _check_test_keypoints(cfg: DictConfig, train: KeypointSet) -> None:
    """Reports before training what the evaluation after it needs."""
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
            f"({_first(test.names)}) without standard deviations, which the object keypoint "
            "similarity needs. Give one number for each keypoint in dataloader.test.dataset."
            "oks_sigmas (keypoint_oks_sigmas in the metadata of a registered data set). COCO's "
            "range from 0.025 (eyes) to 0.107 (hips)."
        )


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
