"""One network: heads learn from stored proposals, its own RPN proposes at test."""

from __future__ import annotations

import copy

import pytest
import torch
from detectron2.modeling.meta_arch import GeneralizedRCNN, ProposalNetwork
from detectron2.utils.events import EventStorage

from mask_rcnn_repro.engine.builders import freeze_module
from mask_rcnn_repro.errors import DataError
from mask_rcnn_repro.modeling import SharedFeatureRCNN

from .model_helpers import build, infer, make_inputs, make_proposals, narrow_config, train_step


def make(kind="fpn", target=SharedFeatureRCNN, seed=0):
    config = narrow_config(kind)
    config._target_ = target
    return build(config, seed)


def with_proposals(inputs, boxes=((5.0, 5.0, 60.0, 60.0), (30.0, 20.0, 90.0, 80.0))):
    return [
        {**item, "proposals": make_proposals(item["image"].shape[1:], [list(b) for b in boxes])}
        for item in inputs
    ]


def losses(model, inputs):
    torch.manual_seed(3)  # RoIs are sampled
    return train_step(model, inputs)


@pytest.mark.parametrize("kind", ["c4", "c5", "fpn"])
def test_losses_are_those_of_a_network_without_rpn(kind):
    model, plain = make(kind), make(kind, GeneralizedRCNN)
    plain.load_state_dict(model.state_dict())
    plain.proposal_generator = None  # Detectron2's way to train on given proposals
    inputs = with_proposals(make_inputs(empty=(1,)))
    ours, theirs = losses(model, inputs), losses(plain, inputs)
    assert ours.keys() == theirs.keys() == {"loss_cls", "loss_box_reg", "loss_mask"}
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name
    gradients = dict(plain.named_parameters())
    for name, parameter in model.named_parameters():
        if name.startswith("proposal_generator."):
            assert parameter.grad is None, name
        else:
            assert torch.equal(parameter.grad, gradients[name].grad), name


def test_losses_depend_on_the_proposals_that_are_given():
    model, inputs = make(), make_inputs()
    one = losses(model, with_proposals(inputs))
    two = losses(model, with_proposals(inputs, [[0.0, 0.0, 30.0, 90.0]]))
    assert not torch.equal(one["loss_box_reg"], two["loss_box_reg"])


def test_images_without_any_proposal():
    """Ground truth is among the RoIs then, as ever."""
    found = losses(make(), with_proposals(make_inputs(), []))
    assert all(torch.isfinite(value) for value in found.values()) and found["loss_mask"] > 0


def test_training_without_proposals_is_refused():
    inputs = with_proposals(make_inputs())
    del inputs[1]["proposals"]
    inputs[1]["image_id"] = 42
    model = make().train()
    with EventStorage(0), pytest.raises(DataError, match=r"42.*train\.proposals"):
        model(inputs)


@pytest.mark.parametrize("postprocess", [False, True])
def test_detections_are_those_of_a_joint_network(postprocess):
    model, joint = make(), make(target=GeneralizedRCNN, seed=1)
    joint.load_state_dict(model.state_dict())  # the same names of weights
    inputs = make_inputs()
    for ours, theirs in zip(
        infer(model, inputs, postprocess), infer(joint, inputs, postprocess), strict=True
    ):
        ours, theirs = (x["instances"] if postprocess else x for x in (ours, theirs))
        assert len(ours) > 0 and torch.equal(ours.scores, theirs.scores)
        assert torch.equal(ours.pred_boxes.tensor, theirs.pred_boxes.tensor)
        assert torch.equal(ours.pred_masks, theirs.pred_masks)


def test_stored_proposals_are_ignored_at_test():
    model, inputs = make(), make_inputs()
    alone = infer(model, inputs)
    beside = infer(model, with_proposals(inputs, [[0.0, 0.0, 2.0, 2.0]]))
    for one, two in zip(alone, beside, strict=True):
        assert len(one) > 0 and torch.equal(one.pred_boxes.tensor, two.pred_boxes.tensor)
    with torch.no_grad():
        called = model.eval()(with_proposals(inputs, [[0.0, 0.0, 2.0, 2.0]]))
    assert [len(x["instances"]) > 0 for x in called] == [True, True]


def test_its_rpn_is_a_proposal_network():
    model, config = make(), narrow_config("fpn")
    stage = ProposalNetwork(
        backbone=model.backbone,
        proposal_generator=model.proposal_generator,
        pixel_mean=config.pixel_mean,
        pixel_std=config.pixel_std,
    ).eval()
    (image, _), model = make_inputs(), model.eval()
    with torch.no_grad():
        expected = stage([image])[0]["proposals"]
        images = model.preprocess_image([image])
        (found,), _ = model.proposal_generator(images, model.backbone(images.tensor), None)
    assert torch.equal(found.proposal_boxes.tensor, expected.proposal_boxes.tensor)
    assert torch.equal(found.objectness_logits, expected.objectness_logits)


def test_step_4_moves_the_heads_alone():
    config = narrow_config("fpn", norm="BN")
    config._target_ = SharedFeatureRCNN
    model = build(config)
    for name in ("backbone", "proposal_generator"):
        freeze_module(model, name)
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(2):
        train_step(model, with_proposals(make_inputs()))
        optimizer.step()
    moved = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {k for k in before if k.startswith("roi_heads.")}
