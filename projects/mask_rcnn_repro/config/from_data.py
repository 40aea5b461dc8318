"""What a config leaves to the data: numbers of classes and keypoints."""

from __future__ import annotations

from collections.abc import Sequence

from omegaconf import DictConfig

from mask_rcnn_repro.config.keypoint_branch import fit_keypoints
from mask_rcnn_repro.config.num_classes import fit_num_classes


def fit_to_data(cfg: DictConfig, overrides: Sequence[str] = ()) -> DictConfig:
    """Makes the heads agree with the training data; see the functions called.

    Args:
        cfg: A validated config, changed in place.
        overrides: Those of the command line, which have the last word.

    Raises:
        ConfigError: If config and data cannot be made to agree.
        DataError: If a json is missing or broken.
    """
    return fit_keypoints(fit_num_classes(cfg, overrides), overrides)
