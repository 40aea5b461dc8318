"""Rows that say the same share a hash, and so a run and a record; others do not."""

import pytest

from mask_rcnn_repro.config import config_hash, equal_configs, load_config, to_plain

from .config_sets import IDS, PROFILES, load


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
    assert sorted(equal_configs(profile=profile).values()) == sorted(ids for _, ids in groups)


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
