"""Configs have the settings that the paper states, which `paper_settings.py` lists."""

import re

import pytest
from detectron2.config import instantiate
from omegaconf import OmegaConf

from mask_rcnn_repro.config import config_root, to_plain
from mask_rcnn_repro.engine.tta import tta_sizes
from mask_rcnn_repro.paper import load_tables

from .config_sets import JOINT_ROWS, ROWS, RPN_STAGES, load, load_joint
from .paper_settings import RPN, SETTINGS


def drops(cfg):
    """Iterations, after the warm-up of at most 1000, at which the rate changes: to what factor."""
    multiplier, end = instantiate(cfg.lr_multiplier), cfg.train.max_iter
    if end:
        assert multiplier(1000 / end) == 1
    found = {
        step: multiplier(step / end)
        for step in range(2000, end, 1000)
        if multiplier(step / end) != multiplier((step - 1) / end)
    }
    assert not end or multiplier((end - 1) / end) == [1, *found.values()][-1]
    return found


def poolers(cfg):
    heads = cfg.model.roi_heads
    return {key: node for key, node in heads.items() if key.endswith("pooler") and node is not None}


def of_all(values):
    """The value, if it is the same everywhere, else all of them."""
    first, *others = values
    return first if all(value == first for value in others) else [first, *others]


def anchor_sizes(cfg):
    sizes = cfg.model.proposal_generator.anchor_generator.sizes
    return sorted(size for level in sizes for size in level)


READ = {
    "drops": drops,
    "anchors": anchor_sizes,
    "poolers": lambda cfg: {key: node.output_size for key, node in poolers(cfg).items()},
    "roi.type": lambda cfg: of_all(node.pooler_type for node in poolers(cfg).values()),
    "roi.ratio": lambda cfg: of_all(node.sampling_ratio for node in poolers(cfg).values()),
    "roi.strides": lambda cfg: of_all(
        [1 / scale for scale in node.scales] for node in poolers(cfg).values()
    ),
    "roi.features": lambda cfg: of_all(
        list(cfg.model.roi_heads[key.removesuffix("pooler") + "in_features"])
        for key in poolers(cfg)
    ),
    "tta": lambda cfg: list(tta_sizes(cfg)),
}


def named(value):
    """Plain data, in which the name of a class stands for a node that builds one."""
    if isinstance(value, dict) and "_target_" in value:
        return str(value["_target_"]).rpartition(".")[2]
    return [named(v) for v in value] if isinstance(value, list | tuple) else value


def found(config, key):
    cfg = load(config)
    if key in READ:
        return READ[key](cfg)
    first, _, rest = key.partition(".")
    if first == "resnet":
        cfg, key = cfg.model.backbone.get("bottom_up", cfg.model.backbone), rest
    elif first == "joint":
        cfg, key = load_joint(config), rest
    value = OmegaConf.select(cfg, key)
    return named(to_plain(value)) if OmegaConf.is_config(value) else value


def agree(value, said):
    if isinstance(said, re.Pattern):
        return isinstance(value, str) and said.search(value) is not None
    return value == (pytest.approx(said) if isinstance(said, dict | float) else said)


@pytest.mark.parametrize("config", SETTINGS)
def test_a_config_has_the_settings_of_the_paper(config):
    values = {key: (found(config, key), said) for key, said in SETTINGS[config].items()}
    assert {key: pair for key, pair in values.items() if not agree(*pair)} == {}


def test_every_row_and_stage_is_listed():
    assert set(SETTINGS) == {*ROWS, *RPN_STAGES}
    assert {config for config in ROWS if SETTINGS[config][RPN] is None} == set(JOINT_ROWS)
    assert set().union(*SETTINGS.values()) >= set(READ)


@pytest.mark.parametrize("table", ["8", "9"])
def test_rows_of_tables_8_and_9_are_listed_as_printed(table):
    rows = [config for config in SETTINGS if config.startswith(f"table{table}/")]
    printed = [row["row"] for row in load_tables()[table]["rows"]]
    assert [load(config).paper.row for config in rows] == printed
    above = [load(config).paper.get("control") for config in rows]
    assert above == [None, *rows[:-1]]


@pytest.mark.parametrize(
    ("key", "value"),
    [("optimizer.lr", 0.03), ("drops", {120_001: 0.1}), ("optimizer", "Adam"), ("paper", None)],
)
def test_a_setting_that_differs_is_found(key, value):
    assert not agree(found("table2a/r50_c4", key), value)


@pytest.mark.parametrize("config", ROWS)
def test_rows_are_short(config):
    """A row states what it changes and nothing else."""
    text = (config_root() / f"{config}.py").read_text(encoding="utf-8")
    code = text.split('"""', 2)[2].strip().splitlines()
    assert len([line for line in code if line.strip()]) <= 20
