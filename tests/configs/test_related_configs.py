"""Rules between configs: a row and its RPN stage, a row and its control, steps of one training."""

import re

import pytest

from mask_rcnn_repro.config import config_root, diff_configs, profiles, to_plain
from mask_rcnn_repro.config.schema import ABOUT_KEYS
from mask_rcnn_repro.engine.dependencies import unlabeled_of
from mask_rcnn_repro.errors import CheckpointError
from mask_rcnn_tools.train.cli import parse_args
from mask_rcnn_tools.train.main import EXTENSIONS
from mask_rcnn_tools.train.run import run

from .config_sets import (
    IDS,
    JOINT_ROWS,
    PRETRAINING,
    PROFILES,
    ROWS,
    RPN_STAGES,
    STAGE_WISE,
    load,
    load_joint,
)
from .paper_settings import SETTINGS


def stated(config, profile="paper"):
    """A config without what it says about tables."""
    plain = to_plain(load(config, profile), resolve=False)
    return {key: value for key, value in plain.items() if key not in ABOUT_KEYS}


def changed_keys(ours, theirs):
    return {key for key, *_ in diff_configs(ours, theirs)}


# --- RPN stages --------------------------------------------------------------------------------


def test_every_rpn_stage_is_used():
    used = {load(config).train.proposals for config in IDS}
    assert used - {None} == set(RPN_STAGES)


@pytest.mark.parametrize("config", RPN_STAGES)
def test_an_rpn_stage_is_an_rpn_and_nothing_else(config):
    parts = {"backbone", "proposal_generator", "pixel_mean", "pixel_std"}
    assert set(load(config).model) == {"_target_", *parts}


@pytest.mark.parametrize("config", [c for c in ROWS if c not in JOINT_ROWS])
def test_a_row_and_its_rpn_stage_have_the_same_backbone_and_rpn(config):
    """Apart from its proposals: none in training, and at test more of them."""
    row, stage = load_joint(config), load(load(config).train.proposals)
    parts = ("backbone", "proposal_generator", "pixel_mean", "pixel_std")
    ours, theirs = ({part: to_plain(cfg)["model"][part] for part in parts} for cfg in (row, stage))
    assert changed_keys(ours, theirs) <= {
        "proposal_generator.post_nms_topk",
        "proposal_generator._target_",
    }
    targets = [model["proposal_generator"]["_target_"] for model in (ours, theirs)]
    assert [target.rpartition(".")[2] for target in targets] == ["RPN", "StageRPN"]


@pytest.mark.parametrize("config", [c for c in ROWS if c not in JOINT_ROWS])
def test_a_row_and_its_rpn_stage_are_trained_alike(config):
    """On the same images, from the same weights; a fine-tuned row for a shorter time."""
    row, stage = load(config), load(load(config).train.proposals)
    ours, theirs = (to_plain(cfg, resolve=False) for cfg in (row, stage))
    assert ours["optimizer"] == theirs["optimizer"]
    train = [to_plain(cfg.dataloader.train) for cfg in (row, stage)]
    assert train[0]["mapper"]["augmentations"] == train[1]["mapper"]["augmentations"]
    assert train[0]["total_batch_size"] == train[1]["total_batch_size"]
    if row.dataloader.train.dataset.get("teacher") is None:  # the stage sees labeled images alone
        assert train[0]["dataset"] == train[1]["dataset"]
    if row.train.init_classes is None:
        assert ours["lr_multiplier"] == theirs["lr_multiplier"]
        if row.train.tta.enabled is False:
            assert row.train.max_iter == stage.train.max_iter
    if {row.train.init_from, stage.train.init_from} == {None}:
        assert row.train.init_checkpoint == stage.train.init_checkpoint != ""


def test_steps_of_the_training_with_shared_features():
    """Section 4.4, after Faster R-CNN: RPN; detector; RPN on its features; heads on these."""
    last = load("section4_4/r101_fpn_shared")
    third = load(last.train.proposals)
    second = load(third.train.init_from)
    first = load(second.train.proposals)
    assert [list(cfg.train.freeze) for cfg in (first, second, third, last)] == [
        [],
        [],
        ["backbone"],
        ["backbone", "proposal_generator"],
    ]
    assert first.train.init_checkpoint == second.train.init_checkpoint != ""


def test_every_network_of_the_paper_has_a_pretraining_stage():
    addresses = {load(config).train.init_checkpoint for config in IDS}
    published = {address for address in addresses if "ImageNetPretrained" in address}
    assert published == set(profiles._PRETRAINING)
    assert set(PRETRAINING) == set(profiles._PRETRAINING.values())


def test_other_configs_train_jointly():
    """They imitate other recipes, or are to be quick."""
    for config in ("quickstart/mask_rcnn_r18_fpn", "model_zoo/mask_rcnn_R_50_FPN_3x"):
        assert load(config).train.proposals is None
        assert load(config).model.proposal_generator is not None


@pytest.mark.parametrize("profile", ["paper", "tiny"])
@pytest.mark.parametrize("config", STAGE_WISE)
def test_null_proposals_make_the_row_joint(config, profile):
    """The row's own RPN comes back, and the loader brings no proposals."""
    row, joint = load(config, profile), load_joint(config, profile)
    generator = joint.model.proposal_generator
    counts = [row.dataloader.train.mapper.precomputed_proposal_topk]
    counts.append(row.dataloader.test.mapper.get("precomputed_proposal_topk"))
    if row.model.proposal_generator is None:
        assert list(generator.post_nms_topk) == counts
    else:  # section 4.4's network proposes for itself at test
        assert generator.post_nms_topk[0] == counts[0] and counts[1] is None
    for split in ("train", "test"):
        assert joint.dataloader[split].mapper.get("precomputed_proposal_topk") is None
    assert joint.train.proposals is None


# --- tables 4 to 6: branches -------------------------------------------------------------------


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("table", ["table5", "table6"])
def test_rows_of_a_table_learn_from_the_same_images(table, profile):
    """Table 5: "on the same data"."""
    rows = [load(config, profile) for config in ROWS if config.startswith(table)]
    first = to_plain(rows[0].dataloader)
    for cfg in rows[1:]:
        found = to_plain(cfg.dataloader)
        for split in ("train", "test"):
            assert found[split]["dataset"] == first[split]["dataset"]
            ours, theirs = (d[split]["mapper"]["augmentations"] for d in (found, first))
            assert ours == theirs
        assert found["train"]["total_batch_size"] == first["train"]["total_batch_size"]
        assert cfg.train.max_iter == rows[0].train.max_iter


@pytest.mark.parametrize(
    ("row", "control", "changed"),
    [
        ("table4/keypoint_only", "table5/keypoint_only", {"dataset"}),
        ("table4/keypoint_and_mask", "table5/keypoint_and_mask", {"dataset"}),
        ("table5/keypoint_and_mask", "table5/keypoint_only", {"mask"}),
        ("table5/keypoint_and_mask", "table5/mask_only", {"keypoint"}),
        ("table5/mask_only", "table5/faster_rcnn", {"mask"}),
        ("table5/keypoint_only", "table5/faster_rcnn", {"keypoint"}),
        ("table6/roi_align", "table5/keypoint_only", set()),
        ("table6/roi_pool", "table6/roi_align", {"pooler_type"}),
    ],
)
def test_rows_differ_in_what_they_are_about(row, control, changed):
    """Each key that differs has one of these words in it."""
    keys = changed_keys(stated(row), stated(control))
    assert bool(keys) == bool(changed)
    assert all(any(word in key for word in changed) for key in keys), keys


# --- tables 8 and 9: each row adds one component to the row above it ---------------------------

SCHEDULE = {"lr_multiplier.milestones", "train.max_iter"}
RESNEXT = {
    "model.backbone.bottom_up.num_groups",
    "model.backbone.bottom_up.width_per_group",
    "train.init_checkpoint",
}
TEST_AUG = {
    "train.tta.enabled",
    "train.tta.max_size",
    "train.tta.vote_iou",
    "train.init_from",
    "train.max_iter",
}
ADDED = {
    "table8/updated_baseline": {
        *SCHEDULE,
        "model.roi_heads.box_predictor.test_nms_thresh",
        "train.proposals",
    },
    "table8/e2e": {
        "model.proposal_generator",
        "train.proposals",
        "dataloader.train.mapper.crowd_overlap",
        "dataloader.train.mapper.precomputed_proposal_topk",
        "dataloader.test.mapper.precomputed_proposal_topk",
    },
    "table8/imagenet5k": {"train.init_checkpoint"},
    "table8/train_aug": {
        *SCHEDULE,
        "dataloader.train.mapper.augmentations.0.sample_style",
        "dataloader.train.mapper.augmentations.0.short_edge_length",
    },
    "table8/deeper": {*RESNEXT, "model.backbone.bottom_up.depth"},
    "table8/non_local": {"model.backbone.bottom_up.non_local"},
    "table8/test_aug": TEST_AUG,
    "table9/updated_baseline": {*SCHEDULE, "train.proposals"},
    "table9/deeper": {"model.backbone.bottom_up.depth", "train.init_checkpoint", "train.proposals"},
    "table9/resnext": {
        *RESNEXT,
        "dataloader.train.total_batch_size",
        "model.backbone.bottom_up.stride_in_1x1",
        "optimizer.lr",
        "train.proposals",
        "train.reference_batch_size",
    },
    "table9/data_distillation": {
        "dataloader.train.dataset._target_",
        "dataloader.train.dataset.generated_part",
        "dataloader.train.dataset.teacher",
    },
    "table9/test_aug": TEST_AUG,
}
"""Keys in which a row differs from the one above it: the component that it adds."""


def above(config):
    return load(config).paper.control


@pytest.mark.parametrize("config", ADDED)
def test_a_row_adds_one_component_to_the_row_above(config):
    assert changed_keys(stated(above(config)), stated(config)) == ADDED[config]


@pytest.mark.parametrize("config", ADDED)
def test_a_row_imports_the_row_above(config):
    text = (config_root() / f"{config}.py").read_text(encoding="utf-8")
    name = above(config).partition("/")[2]
    assert re.search(rf"^from \.{name} import ", text, re.MULTILINE)


def test_every_row_of_tables_8_and_9_adds_to_one_above():
    rows = {config for config in ROWS if config.startswith(("table8", "table9"))}
    assert rows - set(ADDED) == {"table8/original", "table9/original"}


@pytest.mark.parametrize("profile", PROFILES)
def test_the_non_local_row_is_its_control_but_for_the_block(profile):
    rows = (stated("table8/deeper", profile), stated("table8/non_local", profile))
    assert changed_keys(*rows) == ADDED["table8/non_local"]


def test_the_rpn_stage_of_the_updated_baseline():
    assert changed_keys(stated("rpn/x101_fpn"), stated("rpn/x101_fpn_180k")) == SCHEDULE


def test_longer_schedules_stay_longer_at_mini():
    for config in [c for c in ADDED if ADDED[c] != TEST_AUG]:
        ours, theirs = (SETTINGS[c]["train.max_iter"] for c in (config, above(config)))
        mini, mini_above = (load(c, "mini").train.max_iter for c in (config, above(config)))
        assert mini == pytest.approx(mini_above * ours / theirs, abs=1)


@pytest.mark.parametrize("config", ["table9/data_distillation", "table9/test_aug"])
def test_a_teacher_learnt_from_the_same_labeled_data(config):
    cfg = load(config)
    dataset = cfg.dataloader.train.dataset
    assert load(dataset.teacher).dataloader.train.dataset.names == dataset.names
    assert unlabeled_of(cfg).name == "coco_2017_unlabeled"


@pytest.mark.parametrize("config", ["table8/imagenet5k", "table8/train_aug"])
def test_without_weights_of_imagenet_5k_the_row_stops(config, tmp_path, monkeypatch):
    """Before the first step, with the name of what is missing; not from random weights."""
    monkeypatch.chdir(tmp_path)
    weights = load(config).train.init_checkpoint
    words = ["--config-file", config, "--profile", "tiny", f"train.init_checkpoint={weights}"]
    with pytest.raises(CheckpointError) as error:
        run(parse_args([*words, "train.output_dir=run"]), EXTENSIONS)
    assert re.search(r"'ImageNetPretrained/X-101-64x4d-IN5k\.pkl' does not exist", str(error.value))
    assert str(tmp_path / weights) in str(error.value)  # where it was looked for
    assert list((tmp_path / "run").rglob("*.pth")) == []


@pytest.mark.parametrize("config", ["table8/imagenet5k", "table8/train_aug"])
def test_weights_of_imagenet_5k_do_not_count_as_trained_ones(config, tmp_path):
    words = ["--config-file", config, "--eval-only", f"train.output_dir={tmp_path / 'run'}"]
    with pytest.raises(CheckpointError, match="--eval-only needs trained weights"):
        run(parse_args(words), EXTENSIONS)
