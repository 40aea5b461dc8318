"""Narrow models of each kind train and predict: joint, on given proposals, empty, and in bf16."""

import pytest
import torch

from .model_helpers import (
    KINDS,
    NUM_CLASSES,
    build,
    infer,
    make_inputs,
    make_proposals,
    narrow_config,
    resnet_of,
    train_step,
)

RPN_LOSSES = {"loss_rpn_cls", "loss_rpn_loc"}
HEAD_LOSSES = {"loss_cls", "loss_box_reg", "loss_mask"}
MASK_SIDE = {"c4": 14, "c5": 28, "fpn": 28}


def assert_all_finite(losses, model):
    assert all(torch.isfinite(v) for v in losses.values()), losses
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"no gradient for {name}"
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("kind", KINDS)
def test_training_step_reaches_every_parameter(kind):
    model = build(narrow_config(kind))
    losses = train_step(model, make_inputs())
    assert set(losses) == RPN_LOSSES | HEAD_LOSSES
    assert_all_finite(losses, model)
    heads = ("roi_heads.mask_head.predictor.weight", "roi_heads.box_predictor.bbox_pred.weight")
    assert all(model.get_parameter(name).grad.abs().sum() > 0 for name in heads)


@pytest.mark.parametrize("empty", [(0,), (0, 1)])
@pytest.mark.parametrize("kind", KINDS)
def test_images_without_objects_train(kind, empty):
    model = build(narrow_config(kind))
    losses = train_step(model, make_inputs(empty=empty))
    assert_all_finite(losses, model)
    assert (losses["loss_mask"] == 0) == (empty == (0, 1))


@pytest.mark.parametrize("kind", KINDS)
def test_precomputed_proposals_replace_the_rpn(kind):
    cfg = narrow_config(kind)
    cfg.proposal_generator = None
    model = build(cfg)
    inputs = make_inputs()
    boxes = [[8.0, 10.0, 60.0, 70.0], [0.0, 0.0, 30.0, 30.0], [38.0, 22.0, 92.0, 84.0]]
    for x in inputs:
        x["proposals"] = make_proposals(x["instances"].image_size, boxes)
    losses = train_step(model, inputs)
    assert set(losses) == HEAD_LOSSES
    assert_all_finite(losses, model)
    for result in infer(model, inputs):
        assert 0 < len(result) <= len(boxes) * NUM_CLASSES


@pytest.mark.parametrize("kind", KINDS)
def test_no_proposals_at_all(kind):
    cfg = narrow_config(kind)
    cfg.proposal_generator = None
    model = build(cfg)
    inputs = make_inputs(empty=(0, 1))
    for x in inputs:
        x["proposals"] = make_proposals(x["instances"].image_size, [])
    losses = train_step(model, inputs)
    assert_all_finite(losses, model)
    assert sum(losses.values()) == 0
    for result in infer(model, inputs):
        assert len(result) == 0
        assert result.pred_masks.shape == (0, 1, MASK_SIDE[kind], MASK_SIDE[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_no_detections(kind):
    cfg = narrow_config(kind)
    cfg.roi_heads.box_predictor.test_score_thresh = 0.999
    model = build(cfg)
    for result in infer(model, make_inputs(), postprocess=True):
        assert len(result["instances"]) == 0
        assert result["instances"].pred_masks.shape[0] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_predictions(kind):
    model = build(narrow_config(kind))
    inputs = make_inputs()
    side = MASK_SIDE[kind]
    for result, x in zip(infer(model, inputs), inputs, strict=True):
        count, (height, width) = len(result), x["instances"].image_size
        assert 0 < count <= 100
        assert result.pred_masks.shape == (count, 1, side, side)
        assert result.pred_masks.min() >= 0 and result.pred_masks.max() <= 1
        assert (result.scores[:-1] >= result.scores[1:]).all()
        assert set(result.pred_classes.tolist()) <= set(range(NUM_CLASSES))
        boxes = result.pred_boxes.tensor
        assert (boxes >= 0).all() and boxes[:, 2].max() <= width and boxes[:, 3].max() <= height


@pytest.mark.parametrize("kind", KINDS)
def test_without_mask_branch(kind):
    cfg = narrow_config(kind)
    if kind == "c4":
        cfg.roi_heads.mask_head = None
    else:
        for key in ("mask_in_features", "mask_pooler", "mask_head"):
            del cfg.roi_heads[key]
    model = build(cfg)
    assert set(train_step(model, make_inputs())) == RPN_LOSSES | HEAD_LOSSES - {"loss_mask"}
    assert not infer(model, make_inputs())[0].has("pred_masks")


@pytest.mark.parametrize("norm", ["FrozenBN", "GN"])
@pytest.mark.parametrize("kind", [pytest.param("c4", marks=pytest.mark.slow), "c5", "fpn"])
def test_bf16_autocast_is_close_to_fp32(kind, norm):
    cfg = narrow_config(kind, norm=norm)
    if norm == "FrozenBN":  # nothing damps the activations of random weights
        cfg.pixel_std = [255.0] * 3
    cfg.proposal_generator.post_nms_topk = [400, 100]
    cfg.roi_heads.batch_size_per_image = 400  # nothing is sampled, so that losses are comparable
    cfg.proposal_generator.batch_size_per_image = 20000
    model = build(cfg)
    inputs = make_inputs()
    full = train_step(model, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        half = train_step(model, inputs)
        detections = infer(model, inputs)
    assert_all_finite(half, model)
    for name, value in full.items():
        assert half[name].dtype == torch.float32
        torch.testing.assert_close(half[name], value, rtol=0.1, atol=0.02, msg=name)
    for result in detections:
        assert len(result) > 0
        assert result.scores.dtype == result.pred_masks.dtype == torch.float32
        assert result.pred_boxes.tensor.dtype == torch.float32
        assert torch.isfinite(result.pred_boxes.tensor).all()


@pytest.mark.parametrize("empty", [(0, 1), ()])
@pytest.mark.parametrize("kind", KINDS)
def test_bf16_on_given_or_no_proposals(kind, empty):
    cfg = narrow_config(kind)
    cfg.proposal_generator = None
    model = build(cfg)
    inputs = make_inputs(empty=empty)
    for x in inputs:
        boxes = [] if empty else [[8.0, 10.0, 60.0, 70.0]]
        x["proposals"] = make_proposals(x["instances"].image_size, boxes)
    with torch.autocast("cpu", torch.bfloat16):
        assert_all_finite(train_step(model, inputs), model)
        assert all((len(result) == 0) == bool(empty) for result in infer(model, inputs))


def test_depth_alone_changes_the_network():
    cfg = narrow_config("fpn")
    resnet_of(cfg).depth = 18
    model = build(cfg)
    assert_all_finite(train_step(model, make_inputs()), model)
    assert model.backbone.bottom_up.res5[0].conv1.weight.shape == (64, 32, 3, 3)


def test_channels_last_gives_the_same_predictions():
    model = build(narrow_config("fpn"))
    before = infer(model, make_inputs())
    after = infer(model.to(memory_format=torch.channels_last), make_inputs())
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a.scores, b.scores, rtol=1e-4, atol=1e-5)
        # first weights of the predictor (MSRA) enlarge the rounding of features
        torch.testing.assert_close(a.pred_masks, b.pred_masks, rtol=0, atol=2e-3)
