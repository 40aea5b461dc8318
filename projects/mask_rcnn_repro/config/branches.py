"""Omit the mask or keypoint branch of a model by one key."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from omegaconf import DictConfig, OmegaConf

from mask_rcnn_repro.config.dotted_keys import format_key
from mask_rcnn_repro.config.overrides import parse_override

logger = logging.getLogger(__name__)

SWITCHES = {"mask": "use_instance_mask", "keypoint": "use_keypoint"}
"""The key of a mapper that loads what the branch learns from."""


def omit_branches(before: DictConfig, cfg: DictConfig, overrides: Iterable[str] = ()) -> None:
    """Sets, in place, what `model.roi_heads.mask_head=null` on the command line implies.

    A branch has a head, a pooler, input features and annotations that the mapper loads. If
    overrides remove the head of the mask or keypoint branch, the other three follow. Keys that the
    command line sets are kept.

    Args:
        before: The config before the overrides.
        cfg: The config after them.
        overrides: As on the command line.
    """
    given = {format_key(parse_override(text).key) for text in overrides}
    for branch, switch in SWITCHES.items():
        head = f"model.roi_heads.{branch}_head"
        if _value(before, head) is None or _value(cfg, head) is not None:
            continue
        changes: dict[str, bool | None] = {
            f"model.roi_heads.{branch}_{part}": None for part in ("pooler", "in_features")
        }
        mapper = "dataloader.train.mapper"
        if not (branch == "mask" and _value(cfg, f"{mapper}.recompute_boxes")):
            changes[f"{mapper}.{switch}"] = False
        changed = []
        for key, value in changes.items():
            if key not in given and _value(cfg, key):
                OmegaConf.update(cfg, key, value)
                changed.append(f"{key}={'null' if value is None else 'false'}")
        if changed:
            logger.info("%s is null: %s follows.", head, ", ".join(changed))


def _value(cfg: DictConfig, key: str) -> object:
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(cfg, parent)
    return node.get(name) if isinstance(node, DictConfig) else None
