"""Every registered part builds from a yacs config too: same state-dict keys, same outputs."""

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.backbone.build import BACKBONE_REGISTRY
from detectron2.modeling.proposal_generator.rpn import RPN_HEAD_REGISTRY
from detectron2.modeling.roi_heads import (
    ROI_BOX_HEAD_REGISTRY,
    ROI_HEADS_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
    build_mask_head,
)
from detectron2.modeling.roi_heads.keypoint_head import ROI_KEYPOINT_HEAD_REGISTRY

from mask_rcnn_repro.config.yacs import add_mask_rcnn_repro_config
from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.modeling import (
    MASK_LOSS_REGISTRY,
    POOLER_REGISTRY,
    ClassAgnosticMaskLoss,
    KeypointHead,
    MLPMaskHead,
    MultinomialMaskLoss,
    PerClassSigmoidMaskLoss,
    RoIPooler,
)

from .model_helpers import KINDS, build, infer, make_inputs, narrow_config, train_step


def yacs_config(kind, keypoints=False):
    """The yacs twin of `narrow_config(kind)`."""
    cfg = get_cfg()
    add_mask_rcnn_repro_config(cfg)
    m = cfg.MODEL
    m.DEVICE = "cpu"
    m.MASK_ON = not keypoints
    m.KEYPOINT_ON = keypoints
    m.RESNETS.WIDTH_MULTIPLIER = 0.125
    m.RESNETS.NORM = "GN"
    m.RESNETS.STRIDE_IN_1X1 = True
    m.BACKBONE.FREEZE_AT = 0
    m.BACKBONE.NAME = "build_mask_rcnn_repro_resnet_backbone"
    m.RPN.HEAD_NAME = "PaperRPNHead"
    m.ROI_HEADS.NAME = "PaperStandardROIHeads"
    m.ROI_BOX_HEAD.NAME = "FCBoxHead"
    m.ROI_MASK_HEAD.NAME = "FCNMaskHead"
    m.ROI_KEYPOINT_HEAD.NAME = "KeypointHead"
    feature = {"c4": "res4", "c5": "res5"}.get(kind)
    sizes = [8, 16, 32, 48, 64]
    if kind == "fpn":
        m.BACKBONE.NAME = "build_mask_rcnn_repro_resnet_fpn_backbone"
        m.RESNETS.OUT_FEATURES = m.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
        m.FPN.OUT_CHANNELS = 16
        m.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
        m.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4", "p5"]
        m.ANCHOR_GENERATOR.SIZES = [[s] for s in sizes]
    else:
        m.RESNETS.OUT_FEATURES = m.RPN.IN_FEATURES = m.ROI_HEADS.IN_FEATURES = [feature]
        m.ANCHOR_GENERATOR.SIZES = [sizes]
    if kind == "c4":
        m.ROI_HEADS.NAME = "PaperRes5ROIHeads"
    m.RPN.PRE_NMS_TOPK_TEST, m.RPN.POST_NMS_TOPK_TEST = 100, 20
    m.ROI_HEADS.NUM_CLASSES = 3
    m.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    m.ROI_HEADS.NMS_THRESH_TEST = 0.3
    for head in (m.ROI_BOX_HEAD, m.ROI_MASK_HEAD, m.ROI_KEYPOINT_HEAD):
        head.POOLER_TYPE = "ROIAlign"
        head.POOLER_SAMPLING_RATIO = 2
    if kind != "c4":
        m.ROI_BOX_HEAD.POOLER_RESOLUTION = 7
        m.ROI_BOX_HEAD.NUM_FC, m.ROI_BOX_HEAD.FC_DIM = 2, 32
    m.ROI_MASK_HEAD.NUM_CONV = 0 if kind == "c4" else 4
    m.ROI_MASK_HEAD.CONV_DIM = 16
    m.ROI_KEYPOINT_HEAD.CONV_DIMS = [8, 8]
    return cfg


def lazy_config(kind):
    cfg = narrow_config(kind)
    if kind == "fpn":  # not a yacs key of Detectron2's
        cfg.roi_heads.box_pooler.canonical_box_size = 224
    return cfg


def assert_twins(by_name, lazy, field):
    shapes = {k: v.shape for k, v in by_name.state_dict().items()}
    assert shapes == {k: v.shape for k, v in lazy.state_dict().items()}
    by_name.load_state_dict(lazy.state_dict())
    for a, b in zip(infer(by_name, make_inputs()), infer(lazy, make_inputs()), strict=True):
        assert len(a) > 0
        assert torch.equal(a.pred_boxes.tensor, b.pred_boxes.tensor)
        assert torch.equal(a.scores, b.scores)
        assert torch.equal(a.get(field), b.get(field))


@pytest.mark.parametrize("kind", KINDS)
def test_yacs_and_lazy_config_build_the_same_model(kind):
    by_name, lazy = build_model(yacs_config(kind)), build(lazy_config(kind))
    assert type(by_name.roi_heads) is type(lazy.roi_heads)
    assert type(by_name.roi_heads.mask_head) is type(lazy.roi_heads.mask_head)
    assert type(by_name.proposal_generator.rpn_head) is type(lazy.proposal_generator.rpn_head)
    assert_twins(by_name, lazy, "pred_masks")


def test_keypoint_head_both_ways():
    cfg = lazy_config("fpn")
    heads = cfg.roi_heads
    for key in ("mask_in_features", "mask_pooler", "mask_head"):
        del heads[key]
    heads.keypoint_in_features = "${.box_in_features}"
    heads.keypoint_pooler = L(RoIPooler)(output_size=14, scales="${..box_pooler.scales}")
    heads.keypoint_head = L(KeypointHead)(
        input_shape=L(ShapeSpec)(channels=16, height=14, width=14),
        num_keypoints=17,
        num_conv=2,
        conv_dim=8,
        loss_normalizer="visible",
    )
    assert_twins(build_model(yacs_config("fpn", keypoints=True)), build(cfg), "pred_keypoints")


@pytest.mark.parametrize("loss", [MultinomialMaskLoss, ClassAgnosticMaskLoss])
def test_mask_losses_both_ways(loss):
    by_name, lazy = yacs_config("c4"), lazy_config("c4")
    by_name.MODEL.ROI_MASK_HEAD.LOSS = loss.__name__
    lazy.roi_heads.mask_head.loss = L(loss)()
    by_name, lazy = build_model(by_name), build(lazy)
    assert type(by_name.roi_heads.mask_head.loss) is loss
    assert_twins(by_name, lazy, "pred_masks")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("loss", "num_fc"),
    [(PerClassSigmoidMaskLoss, 3), (MultinomialMaskLoss, 2), (ClassAgnosticMaskLoss, 1)],
)
def test_mlp_mask_head_both_ways(kind, loss, num_fc):
    by_name, lazy = yacs_config(kind), lazy_config(kind)
    head = by_name.MODEL.ROI_MASK_HEAD
    head.NAME, head.LOSS = "MLPMaskHead", loss.__name__
    head.NUM_FC, head.FC_DIM, head.OUTPUT_SIZE = num_fc, 12, 10
    head.CLS_AGNOSTIC_MASK = loss is ClassAgnosticMaskLoss  # may be said, need not
    lazy.roi_heads.mask_head = L(MLPMaskHead)(
        input_shape=lazy.roi_heads.mask_head.input_shape,
        num_classes="${..num_classes}",
        loss=L(loss)(),
        num_fc=num_fc,
        fc_dim=12,
        output_size=10,
    )
    by_name, lazy = build_model(by_name), build(lazy)
    assert type(by_name.roi_heads.mask_head) is MLPMaskHead
    assert len(by_name.roi_heads.mask_head.state_dict()) == 2 * (num_fc + 1)
    assert_twins(by_name, lazy, "pred_masks")
    losses = train_step(by_name, make_inputs(empty=(0,)))
    assert losses["loss_mask"].isfinite()


def test_the_papers_mlp_is_the_default_by_name():
    cfg = get_cfg()
    add_mask_rcnn_repro_config(cfg)
    cfg.MODEL.ROI_MASK_HEAD.NAME = "MLPMaskHead"
    with torch.device("meta"):
        head = build_mask_head(cfg, ShapeSpec(channels=256, height=14, width=14))
    shapes = [tuple(m.weight.shape) for m in head.modules() if isinstance(m, torch.nn.Linear)]
    assert shapes == [(1024, 256 * 14 * 14), (1024, 1024), (80 * 28 * 28, 1024)]


def test_registered_names():
    assert "build_mask_rcnn_repro_resnet_backbone" in BACKBONE_REGISTRY
    assert "build_mask_rcnn_repro_resnet_fpn_backbone" in BACKBONE_REGISTRY
    assert "PaperRPNHead" in RPN_HEAD_REGISTRY
    assert "PaperRes5ROIHeads" in ROI_HEADS_REGISTRY
    assert "PaperStandardROIHeads" in ROI_HEADS_REGISTRY
    assert "FCBoxHead" in ROI_BOX_HEAD_REGISTRY
    assert "FCNMaskHead" in ROI_MASK_HEAD_REGISTRY
    assert "MLPMaskHead" in ROI_MASK_HEAD_REGISTRY
    assert "KeypointHead" in ROI_KEYPOINT_HEAD_REGISTRY
    assert "ROIAlign" in POOLER_REGISTRY
    assert {name for name, _ in MASK_LOSS_REGISTRY} >= {
        "PerClassSigmoidMaskLoss",
        "MultinomialMaskLoss",
        "ClassAgnosticMaskLoss",
    }


def test_c4_by_name_is_7x7_with_stride_1():
    heads = build_model(yacs_config("c4")).roi_heads
    assert heads.pooler.output_size == (7, 7)
    assert heads.res5[0].stride == 1


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.ROI_BOX_HEAD.POOLER_TYPE", "RoIAlign", "pooler_type='RoIAlign'"),
        ("MODEL.ROI_MASK_HEAD.LOSS", "Softmax", "mask loss 'Softmax'"),
        ("MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", True, "LOSS to 'ClassAgnosticMaskLoss'"),
        ("MODEL.ROI_HEADS.IN_FEATURES", ["res3", "res4"], "one feature map"),
        ("MODEL.RESNETS.WIDTH_MULTIPLIER", 0.3, "width_multiplier=0.3"),
    ],
)
def test_bad_yacs_values_are_explained(key, value, message):
    cfg = yacs_config("c4")
    cfg.merge_from_list([key, value])
    with pytest.raises(ConfigError, match=message):
        build_model(cfg)
