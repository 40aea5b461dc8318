"""What the tests of all config files share: their ids, and configs loaded once."""

from __future__ import annotations

import ast
import functools

from omegaconf import DictConfig

from mask_rcnn_repro.config import config_root, get_config, list_configs

PROFILES = ("paper", "mini", "tiny")

ROW_FOLDERS = ("table", "section")
"""Folders whose names begin so hold rows that the paper prints, and such rows have `paper`. Configs
elsewhere (`quickstart`, `model_zoo`, `rpn`, ablations of one's own) are no rows; their `paper`,
if any, names a counterpart."""

IDS = list_configs()


@functools.cache
def load(config: str, profile: str = "paper") -> DictConfig:
    """Loads a config once. Not to be changed."""
    return get_config(config, profile)


@functools.cache
def load_joint(config: str, profile: str = "paper") -> DictConfig:
    """Loads a config with its own RPN, for joint training. Not to be changed."""
    return get_config(config, profile, ["train.proposals=null"])


def is_row(config: str) -> bool:
    return config.startswith(ROW_FOLDERS)


ROWS = [config for config in IDS if is_row(config)]
WITH_CONTROL = [config for config in ROWS if load(config).paper.get("control")]
RPN_STAGES = [config for config in IDS if config.startswith("rpn/")]
STAGE_WISE = [config for config in IDS if load(config).train.proposals is not None]
"""Configs that are trained on the stored proposals of an RPN stage."""
JOINT_ROWS = [
    config
    for config in ROWS
    if config.startswith("table8/") and config not in ("table8/original", "table8/updated_baseline")
]
"""Rows that the paper trains end to end: table 8 from `+ e2e training` on."""


def docstring(config: str) -> str:
    tree = ast.parse((config_root() / f"{config}.py").read_text(encoding="utf-8"))
    return ast.get_docstring(tree) or ""
