"""Configs that say the same in different files: they share one run and one record."""

from __future__ import annotations

from collections.abc import Iterable

from mask_rcnn_repro.config.config_files import list_configs
from mask_rcnn_repro.config.load import get_config
from mask_rcnn_repro.config.serialization import config_hash


def equal_configs(
    ids: Iterable[str] | None = None, profile: str = "paper", seed: int | None = None
) -> dict[str, list[str]]:
    """Groups configs by what they do, `paper` and `train.output_dir` aside.

    Args:
        ids: configs to group; None for all.
        profile: scale at which they are compared.
        seed: `train.seed`, unless None.

    Returns:
        Hash, as :func:`config_hash` gives it, to the ids that have it, in order. Most groups have
        one member; rows that several tables print are together.

    Raises:
        ConfigError: a config cannot be loaded.
    """
    groups: dict[str, list[str]] = {}
    for config in list_configs() if ids is None else ids:
        groups.setdefault(config_hash(get_config(config, profile, seed=seed)), []).append(config)
    return groups
