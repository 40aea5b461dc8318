"""The settings that the paper states for keypoints, row by row, and their RPN stages.

Values are typed in here from the paper (section 5, tables 4 to 6; the rest is as in section 3.1),
and read from the loaded configs.
"""

from dataclasses import dataclass, replace

import pytest
import torch
from detectron2.config import instantiate
from torch import nn

from mask_rcnn_repro.config import diff_configs, to_plain

from .config_sets import PROFILES, ROWS, RPN_STAGES, load, load_joint


@dataclass(frozen=True)
class Branches:
    """What a row of tables 4 to 6 is about; all else is the same for all of them.

    Attributes:
        mask: it has a mask branch.
        keypoint: it has a keypoint branch.
        split: test set.
        roi_layer: registered name.
    """

    mask: bool
    keypoint: bool
    split: str = "keypoints_coco_minival"
    roi_layer: str = "ROIAlign"


KEYPOINT_ONLY = Branches(mask=False, keypoint=True)
KEYPOINT_AND_MASK = Branches(mask=True, keypoint=True)
TEST_DEV = "keypoints_coco_test_dev"

PAPER = {
    "table4/keypoint_only": replace(KEYPOINT_ONLY, split=TEST_DEV),
    "table4/keypoint_and_mask": replace(KEYPOINT_AND_MASK, split=TEST_DEV),
    "table5/faster_rcnn": Branches(mask=False, keypoint=False),
    "table5/mask_only": Branches(mask=True, keypoint=False),
    "table5/keypoint_only": KEYPOINT_ONLY,
    "table5/keypoint_and_mask": KEYPOINT_AND_MASK,
    "table6/roi_pool": replace(KEYPOINT_ONLY, roi_layer="ROIPool"),
    "table6/roi_align": KEYPOINT_ONLY,
}
STAGE = "rpn/r50_fpn_person"
STAGES = [config for config in RPN_STAGES if "_person" in config]
LONGER = [config for config in STAGES if config != STAGE]
"""Those of table 9's updated baseline, and of the deeper networks after it: 130k iterations."""


def class_name(node):
    return to_plain(node)["_target_"].rpartition(".")[2]


def check_training(cfg, lr=0.02, images=16, schedule=(60_000, 80_000, 90_000)):
    """Section 5: 90k iterations, divided by 10 at 60k and at 80k; shorter edge 640 to 800, at
    test 800; images of `trainval35k` with annotated keypoints. Section 3.1: decay 1e-4, momentum
    0.9."""
    first, second, end = schedule
    assert cfg.train.max_iter == end
    multiplier = instantiate(cfg.lr_multiplier)
    steps = (1000, first - 1, first, second - 1, second, end - 1)
    rates = [cfg.optimizer.lr * multiplier(step / end) for step in steps]
    assert rates == pytest.approx([lr, lr, lr / 10, lr / 10, lr / 100, lr / 100])
    assert class_name(cfg.optimizer) == "SGD"
    assert (cfg.optimizer.momentum, cfg.optimizer.weight_decay) == (0.9, 1e-4)
    assert cfg.dataloader.train.total_batch_size == cfg.train.reference_batch_size == images

    data = cfg.dataloader.train.dataset
    assert (data.names, data.min_keypoints) == ("keypoints_coco_trainval35k", 1)
    train, test = (cfg.dataloader[split].mapper.augmentations for split in ("train", "test"))
    assert [class_name(step) for step in train] == ["ResizeShortestEdge", "RandomFlip"]
    assert [class_name(step) for step in test] == ["ResizeShortestEdge"]
    assert list(train[0].short_edge_length) == [640, 800]
    assert train[0].sample_style == "range"  # any length between the two
    assert list(test[0].short_edge_length) == [800]
    assert train[0].max_size == test[0].max_size == 1333


def test_every_row_of_these_tables_is_there():
    tables = {config.partition("/")[0] for config in PAPER}
    assert tables == {"table4", "table5", "table6"}
    assert set(PAPER) == {config for config in ROWS if config.partition("/")[0] in tables}


@pytest.mark.parametrize("config", PAPER)
def test_a_row_is_trained_and_tested_as_in_the_paper(config):
    cfg, said = load(config), PAPER[config]
    check_training(cfg)
    assert cfg.dataloader.test.dataset.names == cfg.dataloader.evaluator.dataset_name == said.split
    assert class_name(cfg.dataloader.test.dataset) == "get_test_dicts"  # all images, not a choice
    assert cfg.train.proposals == STAGE
    assert cfg.model.proposal_generator is None
    assert cfg.train.amp.enabled is False
    for split, number in (("train", 2000), ("test", 1000)):
        assert cfg.dataloader[split].mapper.precomputed_proposal_topk == number

    heads = cfg.model.roi_heads
    assert heads.num_classes == 1  # persons: boxes and, where there are any, masks
    assert heads.batch_size_per_image == 512
    assert heads.positive_fraction == 0.25  # positives : negatives = 1 : 3
    assert heads.proposal_matcher.thresholds == [0.5]
    assert heads.box_predictor.test_nms_thresh == 0.5
    assert heads.box_predictor.test_topk_per_image == 100


@pytest.mark.parametrize("config", PAPER)
def test_a_row_has_the_branches_of_the_paper(config):
    cfg, said = load(config), PAPER[config]
    model, heads = cfg.model, cfg.model.roi_heads
    resnet = model.backbone.bottom_up
    assert (resnet.depth, resnet.num_groups, resnet.width_per_group) == (50, 1, 64)
    sides = {"box": 7, "mask": 14, "keypoint": 14}
    present = {"box": True, "mask": said.mask, "keypoint": said.keypoint}
    for branch, side in sides.items():
        assert (heads.get(f"{branch}_head") is not None) is present[branch]
        pooler = heads.get(f"{branch}_pooler")
        assert (pooler is not None) is present[branch]
        if pooler is not None:
            assert (pooler.pooler_type, pooler.output_size) == (said.roi_layer, side)
            assert pooler.sampling_ratio == 2
            assert [1 / scale for scale in pooler.scales] == [4, 8, 16, 32]
            assert list(heads[f"{branch}_in_features"]) == ["p2", "p3", "p4", "p5"]
    mapper = cfg.dataloader.train.mapper
    assert (mapper.use_instance_mask, mapper.use_keypoint) == (said.mask, said.keypoint)


@pytest.mark.parametrize("config", [c for c, said in PAPER.items() if said.keypoint])
def test_keypoint_head(config):
    """Eight 3x3 convolutions of 512, a deconvolution, bilinear upscaling: 17 maps of 56x56."""
    node = load(config).model.roi_heads.keypoint_head
    with torch.device("meta"):
        head = instantiate(node)
        logits = head.layers(torch.zeros(2, 256, 14, 14))
    assert logits.shape == (2, 17, 56, 56)
    convolutions = [layer for layer in head if isinstance(layer, nn.Conv2d)]
    assert [layer.weight.shape for layer in convolutions] == [
        (512, 256 if i == 0 else 512, 3, 3) for i in range(8)
    ]
    assert all(layer.norm is None for layer in convolutions)
    others = [layer for layer in head if not isinstance(layer, nn.Conv2d)]
    assert [type(layer) for layer in others[:-1]] == [nn.ReLU] * 8
    assert isinstance(others[-1], nn.ConvTranspose2d) and others[-1].stride == (2, 2)
    assert (node.loss_normalizer, head.loss_weight) == ("visible", 1.0)


@pytest.mark.parametrize("config", [c for c, said in PAPER.items() if said.mask])
def test_mask_branch_is_for_persons_alone(config):
    with torch.device("meta"):
        head = instantiate(load(config).model.roi_heads.mask_head)
        assert head.layers(torch.zeros(2, 256, 14, 14)).shape == (2, 1, 28, 28)


@pytest.mark.parametrize("config", PAPER)
def test_a_row_and_its_rpn_stage_learn_from_the_same_images(config):
    row, stage = load(config), load(STAGE)
    for key in ("train.dataset", "train.mapper.augmentations", "train.total_batch_size"):
        ours, theirs = (to_plain(cfg.dataloader) for cfg in (row, stage))
        for part in key.split("."):
            ours, theirs = ours[part], theirs[part]
        assert ours == theirs, key
    for node in ("optimizer", "lr_multiplier"):
        assert to_plain(row[node], resolve=False) == to_plain(stage[node], resolve=False)
    assert row.train.max_iter == stage.train.max_iter
    assert row.train.init_checkpoint == stage.train.init_checkpoint != ""


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("table", ["table5", "table6"])
def test_rows_of_a_table_learn_from_the_same_images(table, profile):
    """Table 5: "on the same data"."""
    rows = [load(config, profile) for config in PAPER if config.startswith(table)]
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
    ours, theirs = (to_plain(load(config)) for config in (row, control))
    for plain in (ours, theirs):
        del plain["paper"]
        plain["train"].pop("output_dir", None)
    keys = [key for key, *_ in diff_configs(ours, theirs)]
    assert bool(keys) == bool(changed)
    assert all(any(word in key for word in changed) for key in keys), keys


def test_stages_are_those_of_three_backbones():
    found = {config: load(config).model.backbone.bottom_up for config in STAGES}
    assert {c: (b.depth, b.num_groups, b.width_per_group) for c, b in found.items()} == {
        "rpn/r50_fpn_person": (50, 1, 64),
        "rpn/r50_fpn_person_130k": (50, 1, 64),
        "rpn/r101_fpn_person": (101, 1, 64),
        "rpn/x101_fpn_person": (101, 64, 4),
    }


@pytest.mark.parametrize("config", STAGES)
def test_an_rpn_stage_is_trained_as_its_rows(config):
    """ResNeXt takes 8 images an iteration and a learning rate of 0.01 (section 3.1)."""
    cfg = load(config)
    lr, images = (0.01, 8) if config == "rpn/x101_fpn_person" else (0.02, 16)
    longer = {"schedule": (100_000, 120_000, 130_000)} if config in LONGER else {}
    check_training(cfg, lr, images, **longer)
    assert class_name(cfg.model) == "ProposalNetwork"
    assert cfg.model.proposal_generator.post_nms_topk == [2000, 1000]
    anchors = cfg.model.proposal_generator.anchor_generator
    assert sorted(size for level in anchors.sizes for size in level) == [32, 64, 128, 256, 512]
    assert anchors.aspect_ratios == [0.5, 1.0, 2.0]
    assert class_name(cfg.dataloader.evaluator) == "ProposalEvaluator"
    assert cfg.dataloader.evaluator.dataset_name == "keypoints_coco_minival"
    mapper = cfg.dataloader.train.mapper
    assert (mapper.use_instance_mask, mapper.use_keypoint) == (False, False)


@pytest.mark.parametrize("config", PAPER)
def test_joint_training_is_with_the_stages_rpn(config):
    row, stage = load_joint(config), load(STAGE)
    differing = {
        key
        for key, *_ in diff_configs(
            to_plain(row)["model"]["proposal_generator"],
            to_plain(stage)["model"]["proposal_generator"],
        )
    }
    assert differing <= {"post_nms_topk", "_target_"}
    assert row.model.proposal_generator.post_nms_topk == [2000, 1000]
