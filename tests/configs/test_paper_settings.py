"""The settings that the paper's text and tables state, row by row, and the RPN stages beside them.

Values are typed in here from the paper (sections 3.1, 4.2 to 4.4, tables 1 to 3), and read from the
loaded configs.
"""

from dataclasses import dataclass, replace

import pytest
from detectron2.config import instantiate

from mask_rcnn_repro.config import config_root, diff_configs, to_plain

from .config_sets import IDS, JOINT_ROWS, ROWS, RPN_STAGES, load, load_joint


@dataclass(frozen=True)
class Setting:
    """What the paper says about a row.

    Attributes:
        rpn: RPN stage, of the same backbone.
        depth: of the ResNet or ResNeXt.
        kind: features and head, c4, c5 or fpn.
        rois: sampled from an image in training.
        proposals: of an image at test.
        lr: learning rate at the beginning.
        images: an iteration.
        split: test set.
        roi_layer: registered name.
        mask_head: class name; None: box branch alone.
        mask_loss: class name.
    """

    rpn: str
    depth: int
    kind: str
    rois: int
    proposals: int
    lr: float = 0.02
    images: int = 16
    split: str = "coco_minival"
    roi_layer: str = "ROIAlign"
    mask_head: str | None = "FCNMaskHead"
    mask_loss: str = "PerClassSigmoidMaskLoss"


R50_C4 = Setting("rpn/r50_c4", 50, "c4", rois=64, proposals=300)
R101_C4 = replace(R50_C4, rpn="rpn/r101_c4", depth=101)
R50_FPN = Setting("rpn/r50_fpn", 50, "fpn", rois=512, proposals=1000)
R101_FPN = replace(R50_FPN, rpn="rpn/r101_fpn", depth=101)
X101_FPN = replace(R101_FPN, rpn="rpn/x101_fpn", lr=0.01, images=8)
# Numbers of RoIs and proposals for C5 are not in the paper.
R50_C5 = Setting("rpn/r50_c5", 50, "c5", rois=512, proposals=1000)
TEST_DEV = "coco_test_dev"

PAPER = {
    "table1/r101_c4": replace(R101_C4, split=TEST_DEV),
    "table1/r101_fpn": replace(R101_FPN, split=TEST_DEV),
    "table1/x101_fpn": replace(X101_FPN, split=TEST_DEV),
    "table2a/r50_c4": R50_C4,
    "table2a/r101_c4": R101_C4,
    "table2a/r50_fpn": R50_FPN,
    "table2a/r101_fpn": R101_FPN,
    "table2a/x101_fpn": X101_FPN,
    "table2b/softmax": replace(R50_C4, mask_loss="MultinomialMaskLoss"),
    "table2b/sigmoid": R50_C4,
    "section4_2/class_agnostic": replace(R50_C4, mask_loss="ClassAgnosticMaskLoss"),
    "section4_2/class_specific": R50_C4,
    "section4_2/fpn_roi_pool": replace(R50_FPN, roi_layer="ROIPool"),
    "section4_2/fpn_roi_align": R50_FPN,
    "table2c/roi_pool_max": replace(R50_C4, roi_layer="ROIPool"),
    "table2c/roi_warp_max": replace(R50_C4, roi_layer="ROIWarpMax"),
    "table2c/roi_warp_ave": replace(R50_C4, roi_layer="ROIWarpAve"),
    "table2c/roi_align_max": replace(R50_C4, roi_layer="ROIAlignMax"),
    "table2c/roi_align_ave": R50_C4,
    "table2d/roi_pool": replace(R50_C5, roi_layer="ROIPool"),
    "table2d/roi_align": R50_C5,
    "table2e/mlp_2fc": replace(R50_FPN, mask_head="MLPMaskHead"),
    "table2e/mlp_3fc": replace(R50_FPN, mask_head="MLPMaskHead"),
    "table2e/fcn": R50_FPN,
    "table3/faster_rcnn_roi_align": replace(R101_FPN, split=TEST_DEV, mask_head=None),
    "table3/r101_fpn": replace(R101_FPN, split=TEST_DEV),
    "table3/x101_fpn": replace(X101_FPN, split=TEST_DEV),
    "section4_4/r101_fpn_shared": replace(R101_FPN, rpn="rpn/r101_fpn_shared"),
    "section4_4/r101_c4": R101_C4,
}


def class_name(node):
    return to_plain(node)["_target_"].rpartition(".")[2]


def resnet(model):
    return model.backbone.get("bottom_up", model.backbone)


def check_training(cfg, lr, images):
    """Section 3.1: 160k iterations, divided by 10 at 120k; decay 1e-4, momentum 0.9; 800 px."""
    assert cfg.train.max_iter == 160_000
    schedule = instantiate(cfg.lr_multiplier)
    rates = [cfg.optimizer.lr * schedule(i / 160_000) for i in (1000, 119_999, 120_000, 159_999)]
    assert rates == pytest.approx([lr, lr, lr / 10, lr / 10])
    assert class_name(cfg.optimizer) == "SGD"
    assert (cfg.optimizer.momentum, cfg.optimizer.weight_decay) == (0.9, 1e-4)
    assert cfg.dataloader.train.total_batch_size == cfg.train.reference_batch_size == images
    assert cfg.dataloader.train.dataset.names == "coco_trainval35k"
    for split in ("train", "test"):
        resize = cfg.dataloader[split].mapper.augmentations[0]
        assert (list(resize.short_edge_length), resize.max_size) == ([800], 1333)


def test_every_row_of_these_tables_is_there():
    tables = {config.partition("/")[0] for config in PAPER}
    assert set(PAPER) == {config for config in ROWS if config.partition("/")[0] in tables}


@pytest.mark.parametrize("config", PAPER)
def test_a_row_is_trained_and_tested_as_in_the_paper(config):
    cfg, said = load(config), PAPER[config]
    check_training(cfg, said.lr, said.images)
    assert cfg.dataloader.test.dataset.names == cfg.dataloader.evaluator.dataset_name == said.split
    assert cfg.train.proposals == said.rpn
    assert cfg.train.amp.enabled is False
    assert load_joint(config).model.proposal_generator.post_nms_topk == [2000, said.proposals]

    heads = cfg.model.roi_heads
    assert heads.batch_size_per_image == said.rois
    assert heads.positive_fraction == 0.25  # positives : negatives = 1 : 3
    assert heads.proposal_matcher.thresholds == [0.5]
    assert heads.box_predictor.test_nms_thresh == 0.3
    assert heads.box_predictor.test_topk_per_image == 100  # boxes that get a mask


@pytest.mark.parametrize("config", PAPER)
def test_a_row_has_the_network_of_the_paper(config):
    cfg, said = load(config), PAPER[config]
    model, heads = cfg.model, cfg.model.roi_heads
    assert resnet(model).depth == said.depth
    width = (64, 4) if said.rpn == "rpn/x101_fpn" else (1, 64)
    assert (resnet(model).num_groups, resnet(model).width_per_group) == width
    strides = {"c4": [16], "c5": [32], "fpn": [4, 8, 16, 32]}[said.kind]
    poolers = [heads.pooler] if said.kind == "c4" else [heads.box_pooler]
    poolers += [heads.mask_pooler] if "mask_pooler" in heads else []
    assert len(poolers) == (1 if said.kind == "c4" or said.mask_head is None else 2)
    for pooler, side in zip(poolers, (7, 14), strict=False):
        assert pooler.pooler_type == said.roi_layer
        assert (pooler.output_size, pooler.sampling_ratio) == (side, 2)
        assert [1 / scale for scale in pooler.scales] == strides
    with_masks = said.mask_head is not None
    assert cfg.dataloader.train.mapper.use_instance_mask is with_masks
    assert (heads.get("mask_head") is not None) is with_masks
    if with_masks:
        assert class_name(heads.mask_head) == said.mask_head
        assert class_name(heads.mask_head.loss) == said.mask_loss


@pytest.mark.parametrize(("config", "hidden"), [("table2e/mlp_2fc", 2), ("table2e/mlp_3fc", 3)])
def test_mlp_mask_heads(config, hidden):
    """Table 2e: fc layers of 1024, then 80 masks of 28x28."""
    head = load(config).model.roi_heads.mask_head
    assert (head.num_fc, head.fc_dim, head.output_size, head.num_classes) == (hidden, 1024, 28, 80)


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
    assert last.train.init_from == third.train.init_from == "table2a/r101_fpn"
    assert [cfg.train.init_checkpoint for cfg in (third, last)] == ["", ""]
    assert first.train.init_checkpoint == second.train.init_checkpoint != ""
    assert class_name(last.model) == "SharedFeatureRCNN"
    assert last.model.proposal_generator is not None  # images alone are enough at test


def test_every_rpn_stage_is_used():
    used = {load(config).train.proposals for config in IDS}
    assert used - {None} == set(RPN_STAGES)


# Those of persons, of Cityscapes and of longer schedules are tested beside their rows.
@pytest.mark.parametrize(
    "config", [c for c in RPN_STAGES if not c.endswith(("_person", "_cityscapes", "0k"))]
)
def test_an_rpn_stage_is_trained_as_its_rows(config):
    cfg = load(config)
    resnext = config == "rpn/x101_fpn"
    check_training(cfg, lr=0.01 if resnext else 0.02, images=8 if resnext else 16)
    assert class_name(cfg.model) == "ProposalNetwork"
    assert set(cfg.model) == {
        "_target_",
        "backbone",
        "proposal_generator",
        "pixel_mean",
        "pixel_std",
    }
    assert cfg.model.proposal_generator.post_nms_topk == [2000, 1000]
    anchors = cfg.model.proposal_generator.anchor_generator
    assert sorted(size for level in anchors.sizes for size in level) == [32, 64, 128, 256, 512]
    assert anchors.aspect_ratios == [0.5, 1.0, 2.0]
    assert class_name(cfg.dataloader.evaluator) == "ProposalEvaluator"
    assert cfg.dataloader.evaluator.dataset_name == "coco_minival"
    assert cfg.dataloader.train.mapper.use_instance_mask is False
    assert "paper" not in cfg


@pytest.mark.parametrize("config", [c for c in ROWS if c not in JOINT_ROWS])
def test_a_row_and_its_rpn_stage_have_the_same_backbone_and_rpn(config):
    """Apart from its proposals: none in training, and at test more of them."""
    row, stage = load_joint(config), load(load(config).train.proposals)
    parts = ("backbone", "proposal_generator", "pixel_mean", "pixel_std")
    ours, theirs = ({part: to_plain(cfg)["model"][part] for part in parts} for cfg in (row, stage))
    differing = {key for key, *_ in diff_configs(ours, theirs)}
    assert differing <= {"proposal_generator.post_nms_topk", "proposal_generator._target_"}
    targets = [model["proposal_generator"]["_target_"] for model in (ours, theirs)]
    assert [target.rpartition(".")[2] for target in targets] == ["RPN", "StageRPN"]
    optimizers = to_plain(row.optimizer), to_plain(stage.optimizer)
    assert optimizers[0] == optimizers[1]
    if row.train.init_classes is not None:  # fine-tuned, for a shorter time
        return
    assert to_plain(row.lr_multiplier, resolve=False) == to_plain(
        stage.lr_multiplier, resolve=False
    )
    if stage.train.init_from is None and row.train.init_from is None:
        assert stage.train.init_checkpoint == row.train.init_checkpoint


def test_other_configs_train_jointly():
    """They imitate other recipes, or are to be quick."""
    for config in ("quickstart/mask_rcnn_r18_fpn", "model_zoo/mask_rcnn_R_50_FPN_3x"):
        assert load(config).train.proposals is None
        assert load(config).model.proposal_generator is not None


@pytest.mark.parametrize("config", sorted(PAPER))
def test_rows_are_short(config):
    """A row states what it changes and nothing else."""
    text = (config_root() / f"{config}.py").read_text(encoding="utf-8")
    code = text.split('"""', 2)[2].strip().splitlines()
    assert len([line for line in code if line.strip()]) <= 20
