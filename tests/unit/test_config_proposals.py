"""What `train.proposals` does to a config: counts to the loader, the RPN out of the model."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from mask_rcnn_repro.config import config_hash, get_config, load_config, save_config
from mask_rcnn_repro.config.stored_proposals import keeps_rpn
from mask_rcnn_repro.errors import ConfigError

from .config_helpers import write

ROW, SHARED = "table2a/r50_fpn", "section4_4/r101_fpn_shared"
COUNT = "model.proposal_generator.post_nms_topk"


def counts(cfg):
    return [
        cfg.dataloader[split].mapper.get("precomputed_proposal_topk") for split in ("train", "test")
    ]


def test_counts_go_to_the_loader_and_the_rpn_goes():
    joint = get_config(ROW, overrides=["train.proposals=null"])
    cfg = get_config(ROW)
    assert joint.model.proposal_generator.post_nms_topk == [2000, 1000]
    assert counts(joint) == [None, None]
    assert cfg.model.proposal_generator is None and counts(cfg) == [2000, 1000]
    # nothing else differs
    cfg.train.proposals = None
    cfg.model.proposal_generator = joint.model.proposal_generator
    for split in ("train", "test"):
        del cfg.dataloader[split].mapper["precomputed_proposal_topk"]
    del cfg.dataloader.train.mapper["crowd_overlap"]
    assert config_hash(cfg) == config_hash(joint)


def test_stage_wise_training_omits_proposals_inside_crowds(tmp_path):
    """As Detectron: neither in joint training, nor in the RPN stage, nor at test."""
    key, overlap = "dataloader.train.mapper.crowd_overlap", {}
    for row in (ROW, SHARED, "table5/faster_rcnn", "table7/fine"):
        cfg = get_config(row)
        overlap[row] = cfg.dataloader.train.mapper.crowd_overlap
        assert "crowd_overlap" not in cfg.dataloader.test.mapper
        save_config(cfg, tmp_path / "saved.yaml")
        assert config_hash(load_config(tmp_path / "saved.yaml")) == config_hash(cfg)
        for profile in ("mini", "tiny"):
            assert get_config(row, profile).dataloader.train.mapper.crowd_overlap == 0.7
    assert set(overlap.values()) == {0.7}
    for row in ("rpn/r50_fpn", "table8/e2e", "quickstart/mask_rcnn_r18_fpn"):
        assert "crowd_overlap" not in get_config(row).dataloader.train.mapper
    for value in (None, 0.5):
        text = "null" if value is None else value
        cfg = get_config(ROW, overrides=[f"{key}={text}"])
        assert cfg.dataloader.train.mapper.crowd_overlap == value
    own = "dataloader.train.mapper._target_=detectron2.data.DatasetMapper"
    assert "crowd_overlap" not in get_config(ROW, overrides=[own]).dataloader.train.mapper


def test_c4_rows_test_on_fewer():
    assert counts(get_config("table2a/r50_c4")) == [2000, 300]


def test_profiles_scale_the_counts():
    assert counts(get_config(ROW, "mini")) == [500, 250]
    assert counts(get_config(ROW, "tiny")) == [125, 62]


def test_a_network_that_shares_features_keeps_its_rpn():
    cfg = get_config(SHARED)
    assert keeps_rpn(cfg) and not keeps_rpn(get_config(ROW))
    assert cfg.model.proposal_generator is not None and counts(cfg) == [2000, None]


def test_so_does_a_class_derived_from_it(tmp_path, monkeypatch):
    write(
        tmp_path / "derived_parts.py",
        """
        from mask_rcnn_repro.modeling import SharedFeatureRCNN


        class Derived(SharedFeatureRCNN):
            pass
        """,
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    cfg = get_config(SHARED, overrides=["model._target_=derived_parts.Derived"])
    assert cfg.model.proposal_generator is not None and counts(cfg) == [2000, None]
    save_config(cfg, tmp_path / "saved.yaml")
    assert keeps_rpn(load_config(tmp_path / "saved.yaml"))


@pytest.mark.parametrize("row", [ROW, SHARED])
@pytest.mark.parametrize("profile", ["paper", "tiny"])
def test_saved_config_reads_back_equal(tmp_path, row, profile):
    cfg = get_config(row, profile)
    save_config(cfg, tmp_path / "saved.yaml")
    again = load_config(tmp_path / "saved.yaml")
    assert OmegaConf.to_container(again, resolve=True) == OmegaConf.to_container(
        load_config(tmp_path / "saved.yaml"), resolve=True
    )
    assert config_hash(again) == config_hash(cfg) and counts(again) == counts(cfg)
    assert again.train.profile == profile


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([f"{COUNT}=[50,20]"], [50, 20]),
        ([f"{COUNT}.1=20"], [2000, 20]),
        (["model={proposal_generator: {post_nms_topk: [50, 20]}}"], [50, 20]),
        (["model.proposal_generator={post_nms_topk: [50, 20]}"], [50, 20]),
        (["dataloader.train.mapper.precomputed_proposal_topk=7"], [7, 1000]),
        (
            [f"{COUNT}=[50,20]", "dataloader.test.mapper.precomputed_proposal_topk=7"],
            [50, 7],
        ),
    ],
)
def test_counts_from_the_command_line(overrides, expected):
    cfg = get_config(ROW, overrides=overrides)
    assert counts(cfg) == expected and cfg.model.proposal_generator is None


def test_counts_of_a_saved_config_that_keeps_its_rpn(tmp_path):
    save_config(get_config(SHARED), tmp_path / "saved.yaml")
    cfg = load_config(tmp_path / "saved.yaml", overrides=[f"{COUNT}=[50,20]"])
    assert counts(cfg) == [50, None]
    assert cfg.model.proposal_generator.post_nms_topk == [50, 20]


@pytest.mark.parametrize(
    "override",
    [
        "model.proposal_generator.nms_thresh=0.6",
        "~model.proposal_generator.nms_thresh",
        "++model.proposal_generator.nms_thresh=0.6",
        "model.proposal_generator.anchor_generator.sizes=[[1],[2],[3],[4],[5]]",
        "model.proposal_generator={nms_thresh: 0.6}",
        "model={proposal_generator: {post_nms_topk: [50, 20], nms_thresh: 0.6}}",
        "model.proposal_generator={_target_: torch.nn.Identity}",
    ],
)
def test_changes_of_the_rpn_are_refused(override):
    with pytest.raises(ConfigError, match=r"rpn/r50_fpn") as error:
        get_config(ROW, overrides=[override])
    assert repr(override) in str(error.value) and "train.proposals=null" in str(error.value)
    changed = get_config(ROW, overrides=[override, "train.proposals=null"])
    assert config_hash(changed) != config_hash(get_config(ROW, overrides=["train.proposals=null"]))


@pytest.mark.parametrize(
    "override",
    [
        f"{COUNT}=[0,20]",
        f"{COUNT}=[50,-1]",
        f"{COUNT}=[1.5,20]",
        f"~{COUNT}",
    ],
)
def test_numbers_that_are_none_are_refused(override):
    with pytest.raises(ConfigError, match=r"post_nms_topk.*whole numbers"):
        get_config(ROW, overrides=[override])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (f"{COUNT}=500", "must be a list"),
        (f"{COUNT}=[100]", "must be a list"),
        ("~dataloader.train.mapper", "mapper is not set"),
        ("~dataloader.test.mapper", "mapper is not set"),
        ("~model.proposal_generator", "proposal_generator is not set"),
        ("model.proposal_generator=null", "loader must load proposals"),
        ("model._target_=mask_rcnn_repro.modeling.SharedFeatureRCN", "SharedFeatureRCNN"),
        ("train.proposals=5", "string"),
    ],
)
def test_broken_configs_are_told_plainly(override, message):
    with pytest.raises(ConfigError, match=message):
        get_config(ROW, overrides=[override])


def test_an_rpn_of_ones_own_must_say_how_many(tmp_path):
    file = write(
        tmp_path / "own.py",
        """
        from mask_rcnn_repro import get_config

        _row = get_config("table2a/r50_fpn", overrides=["train.proposals=null"])
        model, dataloader, train = _row.model, _row.dataloader, _row.train
        optimizer, lr_multiplier = _row.optimizer, _row.lr_multiplier
        train.proposals = "rpn/r50_fpn"
        del model.proposal_generator["post_nms_topk"]
        """,
    )
    with pytest.raises(ConfigError, match=r"post_nms_topk.*whole numbers"):
        load_config(file)
    for split in ("train", "test"):
        key = f"dataloader.{split}.mapper.precomputed_proposal_topk = 30\n"
        file.write_text(file.read_text() + key)
    cfg = load_config(file)
    assert counts(cfg) == [30, 30] and cfg.model.proposal_generator is None
