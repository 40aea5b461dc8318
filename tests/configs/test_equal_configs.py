"""Rows that say the same share a hash, and so a run and a record; others do not."""

import functools

import pytest

from mask_rcnn_repro.config import config_hash, load_config, to_plain

from .config_sets import IDS, PROFILES, load, load_joint
from .equal_configs import equal_configs


@functools.cache
def groups_at(profile):
    """Ids by hash, as `equal_configs` groups them, from configs that are loaded already."""
    groups = {}
    for config in IDS:
        groups.setdefault(config_hash(load(config, profile)), []).append(config)
    return sorted(groups.values())


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
"""Rows that differ in their initial weights alone, which small profiles leave out."""


@pytest.mark.parametrize("profile", PROFILES)
def test_rows_that_are_printed_twice_share_a_run(profile):
    expected = PRINTED_TWICE + (SAME_FROM_RANDOM_WEIGHTS if profile != "paper" else [])
    assert [ids for ids in groups_at(profile) if len(ids) > 1] == sorted(expected)


def test_groups_are_made_of_all_configs():
    assert sorted(equal_configs(profile="tiny").values()) == groups_at("tiny")


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("ids", PRINTED_TWICE, ids=lambda ids: ids[0])
def test_joint_training_keeps_them_equal_and_apart_from_stage_wise(ids, profile):
    hashes = {config_hash(load_joint(config, profile)) for config in ids}
    assert len(hashes) == 1
    assert hashes != {config_hash(load(ids[0], profile))}


@pytest.mark.parametrize("profile", PROFILES)
def test_equal_hash_means_equal_config(profile):
    """Compared value by value, without the hash's own code."""
    groups = []
    for config in IDS:
        data = to_plain(load(config, profile))
        data.pop("paper", None)
        data["train"].pop("output_dir")
        same = next((ids for other, ids in groups if other == data), None)
        if same is None:
            groups.append((data, [config]))
        else:
            same.append(config)
    assert groups_at(profile) == sorted(ids for _, ids in groups)


def test_a_row_printed_twice_is_found(tmp_path):
    """A file that imports a row and only belongs to another table is in its group."""
    file = tmp_path / "sigmoid.py"
    file.write_text(
        "from mask_rcnn_repro import get_config\n"
        '_row = get_config("table2a/r50_c4")\n'
        "model, dataloader, train = _row.model, _row.dataloader, _row.train\n"
        "optimizer, lr_multiplier = _row.optimizer, _row.lr_multiplier\n"
        'paper = dict(table="2b", row="sigmoid")\n'
    )
    groups = equal_configs(["table2a/r50_c4", "table2a/r101_c4", str(file)])
    assert list(groups.values()) == [["table2a/r50_c4", str(file)], ["table2a/r101_c4"]]
    assert next(iter(groups)) == config_hash(load_config(file))
    other = equal_configs(["table2a/r50_c4"], profile="tiny", seed=3)
    assert set(other).isdisjoint(groups)
    assert next(iter(other)) == config_hash(load_config(file, "tiny", seed=3))
