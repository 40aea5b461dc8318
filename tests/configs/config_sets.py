"""What the tests of all config files share: their ids, and configs loaded once.

Importing this loads no config: every test process collects all tests.
"""

from __future__ import annotations

import ast
import functools

from omegaconf import DictConfig

from mask_rcnn_repro.config import config_root, get_config, list_configs
from mask_rcnn_tools.evidence.results import loaded_config

from .paper_settings import RPN, SETTINGS

PROFILES = ("paper", "mini", "tiny")

ROW_FOLDERS = ("table", "section")
"""Folders whose names begin so hold rows that the paper prints, and such rows have `paper`. Configs
elsewhere (`quickstart`, `model_zoo`, `rpn`, `pretrain`, ablations of one's own) are no rows; their
`paper`, if any, names a counterpart."""

IDS = list_configs()


load = loaded_config


@functools.cache
def load_joint(config: str, profile: str = "paper") -> DictConfig:
    """Loads a config with its own RPN, for joint training. Not to be changed."""
    return get_config(config, profile, ["train.proposals=null"])


def is_row(config: str) -> bool:
    return config.startswith(ROW_FOLDERS)


ROWS = [config for config in IDS if is_row(config)]
WITH_CONTROL = [
    config for config in ROWS if "control=" in (config_root() / f"{config}.py").read_text("utf-8")
]
RPN_STAGES = [config for config in IDS if config.startswith("rpn/")]
PRETRAINING = [config for config in IDS if config.startswith("pretrain/")]
STAGE_WISE = sorted(
    [config for config, said in SETTINGS.items() if said.get(RPN)]
    + ["enhanced_r50/updated_baseline", "enhanced_r50/data_distillation"]
)
"""Configs that are trained on the stored proposals of an RPN stage."""
JOINT_ROWS = [
    config
    for config in ROWS
    if config.startswith("table8/") and config not in ("table8/original", "table8/updated_baseline")
]
"""Rows that the paper trains end to end: table 8 from `+ e2e training` on."""

ON_TEST_DEV = [
    config
    for config, said in SETTINGS.items()
    if said["dataloader.test.dataset.names"].endswith("test_dev")
]

PRINTED_TWICE = [
    ["section4_2/class_specific", "table2a/r50_c4", "table2b/sigmoid", "table2c/roi_align_ave"],
    ["section4_2/fpn_roi_align", "table2a/r50_fpn", "table2e/fcn"],
    ["section4_4/r101_c4", "table2a/r101_c4"],
    ["table1/r101_fpn", "table3/r101_fpn"],
    ["table1/x101_fpn", "table3/x101_fpn"],
    ["table2a/x101_fpn", "table8/original"],
    ["table5/keypoint_only", "table6/roi_align", "table9/original"],
]
"""All rows that the paper prints in several places: one model, one training, one test set."""

SAME_FROM_RANDOM_WEIGHTS = [["table8/e2e", "table8/imagenet5k"]]
"""Rows that differ in their initial weights alone, which `tiny` omits."""

DISTINCT_AT_TINY = [
    config
    for config in IDS
    if not any(config in ids[1:] for ids in PRINTED_TWICE + SAME_FROM_RANDOM_WEIGHTS)
]
"""One config of each run at `tiny`."""


def docstring(config: str) -> str:
    tree = ast.parse((config_root() / f"{config}.py").read_text(encoding="utf-8"))
    return ast.get_docstring(tree) or ""
