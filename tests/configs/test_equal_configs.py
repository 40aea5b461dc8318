"""Rows that say the same share a hash, and so a run and a record; others do not."""

import functools

import pytest

from mask_rcnn_repro.config import config_hash, get_config, load_config, to_plain
from mask_rcnn_repro.config.schema import ABOUT_KEYS

from .config_sets import (
    IDS,
    PRINTED_TWICE,
    PROFILES,
    SAME_FROM_RANDOM_WEIGHTS,
    load,
    load_joint,
)

# loading all configs at one profile takes 15 s
EACH_PROFILE = pytest.mark.parametrize(
    "profile",
    [pytest.param(p, marks=[] if p == "mini" else pytest.mark.slow) for p in PROFILES],
)


@functools.cache
def groups_at(profile):
    """Ids of each hash."""
    groups = {}
    for config in IDS:
        groups.setdefault(config_hash(load(config, profile)), []).append(config)
    return sorted(groups.values())


@EACH_PROFILE
def test_rows_that_are_printed_twice_share_a_run(profile):
    expected = PRINTED_TWICE + (SAME_FROM_RANDOM_WEIGHTS if profile == "tiny" else [])
    assert [ids for ids in groups_at(profile) if len(ids) > 1] == sorted(expected)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("ids", PRINTED_TWICE, ids=lambda ids: ids[0])
def test_joint_training_keeps_them_equal_and_apart_from_stage_wise(ids, profile):
    hashes = {config_hash(load_joint(config, profile)) for config in ids}
    assert len(hashes) == 1
    assert hashes != {config_hash(load(ids[0], profile))}


@EACH_PROFILE
def test_equal_hash_means_equal_config(profile):
    """Compared value by value, without the hash's own code."""
    groups = []
    for config in IDS:
        plain = to_plain(load(config, profile))
        data = {key: value for key, value in plain.items() if key not in ABOUT_KEYS}
        data["train"].pop("output_dir")
        same = next((ids for other, ids in groups if other == data), None)
        if same is None:
            groups.append((data, [config]))
        else:
            same.append(config)
    assert groups_at(profile) == sorted(ids for _, ids in groups)


def test_a_row_printed_twice_has_the_hash_of_the_other(tmp_path):
    """A file that imports a row and only belongs to another table."""
    file = tmp_path / "sigmoid.py"
    file.write_text(
        "from mask_rcnn_repro import get_config\n"
        '_row = get_config("table2a/r50_c4")\n'
        "model, dataloader, train = _row.model, _row.dataloader, _row.train\n"
        "optimizer, lr_multiplier = _row.optimizer, _row.lr_multiplier\n"
        'paper = dict(table="2b", row="sigmoid")\n'
    )
    assert config_hash(load_config(file)) == config_hash(load("table2a/r50_c4"))
    assert config_hash(load_config(file)) != config_hash(load("table2a/r101_c4"))
    small = config_hash(get_config("table2a/r50_c4", "tiny", seed=3))
    assert small == config_hash(load_config(file, "tiny", seed=3))
    assert small != config_hash(load("table2a/r50_c4", "tiny"))
