"""Mask heads and losses: values and gradients by hand, geometry, empty input."""

import math

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import MaskRCNNConvUpsampleHead
from detectron2.modeling.roi_heads.mask_head import mask_rcnn_inference
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.modeling import (
    FCNMaskHead,
    MaskLoss,
    PerClassSigmoidMaskLoss,
    build_mask_loss,
)


def positives(classes: list[int], side: int = 4) -> Instances:
    """RoIs equal to a box of `side` x `side` pixels whose left half is object."""
    mask = torch.zeros(len(classes), 16, 16, dtype=torch.bool)
    mask[:, :side, : side // 2] = True
    instances = Instances((16, 16))
    instances.proposal_boxes = Boxes(
        torch.tensor([[0.0, 0.0, side, side]] * len(classes)).view(-1, 4)
    )
    instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
    instances.gt_masks = BitMasks(mask)
    return instances


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_sigmoid_loss_by_hand():
    # Class 1's logits are 2 everywhere; half the pixels are object. Class 0 and 2 must not matter.
    logits = torch.stack([torch.full((4, 4), v) for v in (-50.0, 2.0, 50.0)])[None].requires_grad_()
    with EventStorage(0) as storage:
        loss = PerClassSigmoidMaskLoss().loss(logits, [positives([1])])
        assert storage.latest()["mask_rcnn/accuracy"][0] == 0.5
        assert storage.latest()["mask_rcnn/false_positive"][0] == 1.0
    assert loss.item() == pytest.approx((softplus(-2) + softplus(2)) / 2)
    loss.backward()
    # d/dx of the mean over 16 pixels: (sigmoid(x) - target) / 16
    p = 1 / (1 + math.exp(-2))
    expected = torch.full((4, 4), p / 16)
    expected[:, :2] = (p - 1) / 16
    torch.testing.assert_close(logits.grad[0, 1], expected)
    assert (logits.grad[0, [0, 2]] == 0).all()


def test_sigmoid_loss_averages_over_all_rois_of_all_images():
    logits = torch.zeros(3, 2, 4, 4)
    logits[2, 0] = 3.0
    with EventStorage(0):
        loss = PerClassSigmoidMaskLoss().loss(logits, [positives([0, 1]), positives([0])])
    mean = (2 * math.log(2) + (softplus(-3) + softplus(3)) / 2) / 3
    assert loss.item() == pytest.approx(mean, rel=1e-6)


def test_target_is_the_part_of_the_mask_inside_the_roi():
    """A RoI over the right half of the box sees no object, one over the left half nothing else."""
    instances = positives([0, 0], side=8)
    instances.proposal_boxes = Boxes(torch.tensor([[4.0, 0.0, 8.0, 8.0], [0.0, 0.0, 4.0, 8.0]]))
    logits = torch.zeros(2, 1, 4, 4)
    logits[0], logits[1] = -20.0, 20.0
    with EventStorage(0):
        assert PerClassSigmoidMaskLoss().loss(logits, [instances]).item() < 1e-8


@pytest.mark.parametrize("images", [[], [[]], [[], []]])
def test_sigmoid_loss_without_rois_is_zero_with_a_graph(images):
    logits = torch.zeros(0, 2, 4, 4, requires_grad=True)
    with EventStorage(0):
        loss = PerClassSigmoidMaskLoss().loss(logits, [positives(c) for c in images])
    loss.backward()
    assert loss.item() == 0 and logits.grad.shape == (0, 2, 4, 4)


def test_probabilities_are_those_of_the_given_class():
    logits = torch.randn(5, 3, 4, 4)
    classes = torch.tensor([2, 0, 1, 1, 2])
    out = PerClassSigmoidMaskLoss().probabilities(logits, classes)
    assert out.shape == (5, 1, 4, 4)
    for row, k in enumerate(classes):
        torch.testing.assert_close(out[row, 0], 1 / (1 + torch.exp(-logits[row, k])))
    empty = PerClassSigmoidMaskLoss().probabilities(logits[:0], classes[:0])
    assert empty.shape == (0, 1, 4, 4)


@pytest.mark.parametrize(("num_conv", "side_in", "side_out"), [(4, 14, 28), (0, 7, 14)])
def test_fcn_head_geometry(num_conv, side_in, side_out):
    head = FCNMaskHead(
        ShapeSpec(channels=6, height=side_in, width=side_in),
        num_classes=3,
        loss=PerClassSigmoidMaskLoss(),
        num_conv=num_conv,
        conv_dim=8,
    )
    for rois in (0, 2):
        assert head.layers(torch.randn(rois, 6, side_in, side_in)).shape == (
            rois,
            3,
            side_out,
            side_out,
        )


def test_fcn_head_is_detectron2s():
    torch.manual_seed(0)
    shape = ShapeSpec(channels=6, height=14, width=14)
    theirs = MaskRCNNConvUpsampleHead(shape, num_classes=3, conv_dims=[8] * 5)
    ours = FCNMaskHead(shape, num_classes=3, loss=PerClassSigmoidMaskLoss(), conv_dim=8)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(3, 6, 14, 14)

    def detections():
        result = []
        for classes in ([0, 2], [], [1]):
            instances = Instances((16, 16))
            instances.pred_classes = torch.tensor(classes, dtype=torch.int64)
            result.append(instances)
        return result

    ours.eval()
    mine, stock = detections(), detections()
    ours(x, mine)
    mask_rcnn_inference(theirs.layers(x), stock)
    for a, b in zip(mine, stock, strict=True):
        assert torch.equal(a.pred_masks, b.pred_masks)
    targets = [positives([0, 2]), positives([1])]
    with EventStorage(0):
        assert torch.equal(ours.train()(x, targets)["loss_mask"], theirs(x, targets)["loss_mask"])


def test_loss_decides_the_outputs_and_the_weight_scales_it():
    class TwoChannels(MaskLoss):
        def num_outputs(self, num_classes):
            return 2

        def loss(self, logits, instances, vis_period=0):
            return logits.sum()

        def probabilities(self, logits, classes):
            return logits[:, 1:].softmax(1)

    shape = ShapeSpec(channels=4, height=7, width=7)
    head = FCNMaskHead(
        shape, num_classes=80, loss=TwoChannels(), num_conv=0, conv_dim=4, loss_weight=0.5
    )
    x = torch.randn(1, 4, 7, 7)
    logits = head.layers(x)
    assert logits.shape[1] == 2
    assert torch.equal(head(x, [])["loss_mask"], 0.5 * logits.sum())
    assert not any("loss" in key for key in head.state_dict())


def test_head_logits_are_float32_in_mixed_precision():
    seen = []

    class Spy(PerClassSigmoidMaskLoss):
        def loss(self, logits, instances, vis_period=0):
            seen.append(logits.dtype)
            return super().loss(logits, instances, vis_period)

    head = FCNMaskHead(ShapeSpec(channels=4), num_classes=2, loss=Spy(), num_conv=1, conv_dim=4)
    with torch.autocast("cpu", torch.bfloat16), EventStorage(0):
        loss = head(torch.randn(1, 4, 14, 14), [positives([1])])["loss_mask"]
    assert seen == [torch.float32] and loss.dtype == torch.float32


def test_losses_by_name():
    assert isinstance(build_mask_loss("PerClassSigmoidMaskLoss"), PerClassSigmoidMaskLoss)
    with pytest.raises(
        ConfigError, match=r"'Sigmoid' is unknown; allowed: .*PerClassSigmoidMaskLoss"
    ):
        build_mask_loss("Sigmoid")
