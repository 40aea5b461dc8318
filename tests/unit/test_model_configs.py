"""The model blocks in configs/common/models: the paper's values, sizes, geometry, narrowing."""

import pytest
import torch
from detectron2.config import instantiate
from omegaconf import OmegaConf

from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.modeling import PaperRPNHead, anchors_per_location

from .model_helpers import KINDS, build, model_config, narrow_config, resnet_of


def parameters(module) -> int:
    return sum(p.numel() for p in module.parameters())


def full_size(kind, **resnet):
    cfg = model_config(kind)
    resnet_of(cfg).update(resnet)
    with torch.device("meta"):
        return instantiate(cfg)


def test_parameters_of_r50_fpn_are_torchvisions():
    # torchvision's maskrcnn_resnet50_fpn (91 outputs with background, all with boxes and masks) has
    # 44,401,393; ours has 81 scores, and 80 boxes and masks.
    per_score, per_box, per_mask = 1024 + 1, 4 * (1024 + 1), 256 + 1
    expected = 44_401_393 - 10 * per_score - 11 * (per_box + per_mask)
    assert parameters(full_size("fpn")) == expected


def test_parameters_of_r50_c4():
    model = full_size("c4")
    rpn = 1024 * 1024 * 9 + 1024 + 15 * (1024 + 1) + 60 * (1024 + 1)
    boxes = 81 * (2048 + 1) + 320 * (2048 + 1)
    masks = 2048 * 256 * 4 + 256 + 80 * (256 + 1)
    resnet = 25_557_032 - 1000 * 2049 - 2 * 26_560  # torchvision's, less classifier and norms
    assert parameters(model.proposal_generator) == rpn
    assert parameters(model.roi_heads.box_predictor) == boxes
    assert parameters(model.roi_heads.mask_head) == masks
    assert parameters(model) == resnet + rpn + boxes + masks


def test_parameters_of_r50_c5():
    model = full_size("c5")
    assert parameters(model.roi_heads.box_head) == (2048 * 49 + 1) * 1024 + (1024 + 1) * 1024
    assert parameters(model.proposal_generator) == 2048 * 2048 * 9 + 2048 + 75 * (2048 + 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("depth", [18, 34, 101])
def test_depth_alone_fits_everything_that_follows(kind, depth):
    model = full_size(kind, depth=depth)
    channels = {18: 512, 34: 512, 101: 2048}[depth]
    if kind == "c4":
        assert model.proposal_generator.rpn_head.conv.in_channels == channels // 2
        assert model.roi_heads.res5[-1].out_channels == channels
        assert model.roi_heads.box_predictor.cls_score.in_features == channels
        assert model.roi_heads.mask_head.deconv.in_channels == channels
    elif kind == "c5":
        assert model.proposal_generator.rpn_head.conv.in_channels == channels
        assert model.roi_heads.box_head.fc1.in_features == channels * 49
        assert model.roi_heads.mask_head.mask_fcn1.in_channels == channels
    else:
        assert model.backbone.fpn_lateral5.in_channels == channels


@pytest.mark.parametrize("kind", KINDS)
def test_values_of_the_paper(kind):
    cfg = model_config(kind)
    heads, rpn = cfg.roi_heads, cfg.proposal_generator
    pooler = heads.pooler if kind == "c4" else heads.box_pooler
    assert heads.batch_size_per_image == (64 if kind == "c4" else 512)
    assert heads.positive_fraction == 0.25
    assert heads.proposal_matcher.thresholds == [0.5]
    assert rpn.post_nms_topk == [2000, 300 if kind == "c4" else 1000]
    assert rpn.smooth_l1_beta == pytest.approx(1 / 9)
    assert heads.box_predictor.smooth_l1_beta == 1.0
    assert heads.box_predictor.test_nms_thresh == 0.3
    assert heads.box_predictor.test_topk_per_image == 100
    assert (pooler.output_size, pooler.pooler_type, pooler.sampling_ratio) == (7, "ROIAlign", 2)
    anchors = rpn.anchor_generator
    assert anchors.aspect_ratios == [0.5, 1.0, 2.0]
    assert sorted(s for level in anchors.sizes for s in level) == [32, 64, 128, 256, 512]


@pytest.mark.parametrize(("kind", "stride", "mask_side"), [("c4", 16, 14), ("c5", 32, 28)])
def test_strides_and_mask_sides(kind, stride, mask_side):
    cfg = narrow_config(kind)
    model = build(cfg)
    (features,) = model.backbone(torch.zeros(1, 3, 128, 128)).values()
    assert features.shape[-1] == 128 // stride
    pooler = model.roi_heads.pooler if kind == "c4" else model.roi_heads.box_pooler
    assert pooler.level_poolers[0].spatial_scale == 1 / stride
    assert model.proposal_generator.anchor_generator.strides == [stride]
    if kind == "c4":
        roi = torch.zeros(1, features.shape[1], 7, 7)
        x = model.roi_heads.res5(roi)
        assert x.shape[-2:] == (7, 7)  # figure 4: stride 1 on a 7x7 RoI
        assert all(block.stride == 1 for block in model.roi_heads.res5)
    else:
        x = torch.zeros(1, features.shape[1], 14, 14)
    assert model.roi_heads.mask_head.layers(x).shape == (1, 3, mask_side, mask_side)


@pytest.mark.parametrize("kind", KINDS)
def test_fractions_of_the_width_fit_together(kind):
    """The keys of the table in each config's docstring are enough to narrow it."""
    cfg = model_config(kind)
    resnet_of(cfg).width_multiplier = 1 / 32
    cfg.roi_heads.mask_head.conv_dim = 4
    if kind != "c4":
        cfg.roi_heads.box_head.fc_dim = 8
    if kind == "fpn":
        cfg.backbone.out_channels = 6
    model = build(cfg)
    model.eval()
    with torch.no_grad():
        model([{"image": torch.zeros(3, 64, 64)}])
    assert parameters(model) < 400_000


@pytest.mark.parametrize("kind", KINDS)
def test_number_of_classes_is_stated_once(kind):
    cfg = model_config(kind)
    cfg.roi_heads.num_classes = 7
    with torch.device("meta"):
        heads = instantiate(cfg).roi_heads
    assert heads.num_classes == heads.box_predictor.num_classes == 7
    assert heads.mask_head.predictor.out_channels == 7
    literal = OmegaConf.to_container(cfg, resolve=False)["roi_heads"]
    assert literal["box_predictor"]["num_classes"] == "${..num_classes}"


@pytest.mark.parametrize("kind", KINDS)
def test_anchor_sizes_decide_the_rpn_outputs(kind):
    cfg = narrow_config(kind)
    anchors = cfg.proposal_generator.anchor_generator
    anchors.aspect_ratios = [0.5, 2.0]
    rpn = build(cfg).proposal_generator
    expected = 2 if kind == "fpn" else 10
    assert rpn.anchor_generator.num_anchors == [expected] * (5 if kind == "fpn" else 1)
    assert rpn.rpn_head.objectness_logits.out_channels == expected
    assert rpn.rpn_head.anchor_deltas.out_channels == 4 * expected


@pytest.mark.parametrize(
    ("sizes", "ratios", "levels", "expected"),
    [
        ([[32], [64]], [0.5, 1, 2], 2, 3),
        ([[32, 64]], [[1], [1]], 2, 2),
        ([32, 64, 128, 256, 512], [0.5, 1, 2], 1, 15),
    ],
)
def test_anchors_per_location(sizes, ratios, levels, expected):
    assert anchors_per_location(sizes, ratios, levels) == expected


@pytest.mark.parametrize("sizes", [[[32], [64, 128]], [[32]] * 3, [], [[]]])
def test_anchors_that_differ_between_levels_are_refused(sizes):
    with pytest.raises(ConfigError, match=r"anchor generator's sizes=.*2 levels"):
        anchors_per_location(sizes, [1.0], 2)


def test_rpn_outputs_are_float32_in_mixed_precision():
    head = PaperRPNHead(in_channels=4, num_anchors=3)
    with torch.autocast("cpu", torch.bfloat16):
        assert head.conv(torch.zeros(1, 4, 8, 8)).dtype == torch.bfloat16
        logits, deltas = head([torch.zeros(1, 4, 8, 8)])
    assert logits[0].dtype == deltas[0].dtype == torch.float32


def test_mask_pooler_follows_the_box_pooler():
    cfg = model_config("fpn").roi_heads
    cfg.box_pooler.update(canonical_box_size=56, sampling_ratio=0, pooler_type="ROIAlignV2")
    for key in ("canonical_box_size", "sampling_ratio", "pooler_type", "scales"):
        assert cfg.mask_pooler[key] == cfg.box_pooler[key]
    assert cfg.mask_pooler.output_size == 14


def test_rpn_head_needs_a_number_of_anchors():
    assert PaperRPNHead(in_channels=4, num_anchors=3).anchor_deltas.out_channels == 12
    with pytest.raises(ConfigError, match="num_anchors"):
        PaperRPNHead(in_channels=4)
