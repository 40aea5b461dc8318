"""Mask losses: values and gradients by hand, float64 references, properties, probabilities."""

import math

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads.mask_head import mask_rcnn_inference, mask_rcnn_loss
from detectron2.utils.events import EventStorage
from hypothesis import given, settings
from hypothesis import strategies as st

from mask_rcnn_repro import get_config
from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.modeling import (
    MASK_LOSS_REGISTRY,
    ClassAgnosticMaskLoss,
    FCNMaskHead,
    MLPMaskHead,
    MultinomialMaskLoss,
    PerClassSigmoidMaskLoss,
    build_mask_loss,
)

from .mask_helpers import LOSSES, compute, constant, detections, positives, rois, without_masks

HALF = torch.tensor([[True, False], [True, False]])


def softplus(x):
    return math.log1p(math.exp(x))


# --- by hand


def test_sigmoid_loss_by_hand():
    # Class 1's logits are 2 everywhere; half the pixels are object. Class 0 and 2 must not matter.
    logits = constant(-50.0, 2.0, 50.0).requires_grad_()
    loss, scalars = compute(PerClassSigmoidMaskLoss(), logits, [positives([1])])
    assert scalars["mask_rcnn/accuracy"] == 0.5
    assert scalars["mask_rcnn/false_positive"] == 1.0
    assert loss.item() == pytest.approx((softplus(-2) + softplus(2)) / 2)
    loss.backward()
    # d/dx of the mean over 16 pixels: (sigmoid(x) - target) / 16
    p = 1 / (1 + math.exp(-2))
    expected = torch.full((4, 4), p / 16)
    expected[:, :2] = (p - 1) / 16
    torch.testing.assert_close(logits.grad[0, 1], expected)
    assert (logits.grad[0, [0, 2]] == 0).all()


def test_multinomial_loss_by_hand():
    # Probabilities of class 0, class 1 and background: 1/6, 1/2, 1/3. The left column is object of
    # class 1, the right one background.
    logits = constant(math.log(1), math.log(3), math.log(2), side=2).requires_grad_()
    loss, _ = compute(MultinomialMaskLoss(), logits, [rois(HALF[None], [1])])
    assert loss.item() == pytest.approx((math.log(2) + math.log(3)) / 2)
    loss.backward()
    # d/dx of the mean over 4 pixels: (p - onehot(target)) / 4
    on_object = torch.tensor([1 / 6, 1 / 2 - 1, 1 / 3]) / 4
    off_object = torch.tensor([1 / 6, 1 / 2, 1 / 3 - 1]) / 4
    for row in range(2):
        torch.testing.assert_close(logits.grad[0, :, row, 0], on_object)
        torch.testing.assert_close(logits.grad[0, :, row, 1], off_object)


def test_class_agnostic_loss_by_hand():
    logits = constant(math.log(3), side=2).requires_grad_()  # probability 3/4
    loss, scalars = compute(ClassAgnosticMaskLoss(), logits, [rois(HALF[None], [57])])
    assert loss.item() == pytest.approx((math.log(4 / 3) + math.log(4)) / 2)
    assert scalars["mask_rcnn/false_positive"] == 1.0
    loss.backward()
    expected = torch.tensor([[3 / 4 - 1, 3 / 4]] * 2) / 4
    torch.testing.assert_close(logits.grad[0, 0], expected)


def test_the_background_is_the_last_output():
    loss = MultinomialMaskLoss()
    nothing = rois(torch.zeros(1, 2, 2, dtype=torch.bool), [0])
    everything = rois(torch.ones(1, 2, 2, dtype=torch.bool), [0])
    background, object_ = constant(0.0, 0.0, 30.0, side=2), constant(30.0, 0.0, 0.0, side=2)
    assert compute(loss, background, [nothing])[0].item() < 1e-9
    assert compute(loss, object_, [everything])[0].item() < 1e-9
    assert compute(loss, object_, [nothing])[0].item() == pytest.approx(30)


def test_what_distinguishes_table_2b():
    """Other classes' logits: sigmoid masks do not see them, multinomial masks compete with them."""
    instances = [positives([1])]
    independent = torch.randn(1, 3, 4, 4, requires_grad=True)
    compute(PerClassSigmoidMaskLoss(), independent, instances)[0].backward()
    assert (independent.grad[:, [0, 2]] == 0).all() and (independent.grad[:, 1] != 0).all()
    competing = torch.randn(1, 4, 4, 4, requires_grad=True)
    compute(MultinomialMaskLoss(), competing, instances)[0].backward()
    assert (competing.grad != 0).all()
    # Over its outputs a pixel's gradient sums to zero, since only differences matter.
    torch.testing.assert_close(competing.grad.sum(1), torch.zeros(1, 4, 4), atol=1e-7, rtol=0)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_mean_runs_over_all_rois_of_all_images(loss):
    """Two undecided RoIs in one image, one with a difference of 3 in another; K = 1."""
    logits = torch.zeros(3, loss().num_outputs(1), 4, 4)
    logits[2, 0] = 3.0
    value, _ = compute(loss(), logits, [positives([0, 0]), without_masks(), positives([0])])
    expected = (2 * math.log(2) + (softplus(-3) + softplus(3)) / 2) / 3
    assert value.item() == pytest.approx(expected, rel=1e-6)


# --- references


def loop_reference(logits, masks, classes):
    """Mean cross-entropy in float64, one pixel after the other."""
    total, pixels = 0.0, 0
    for roi in range(len(classes)):
        for y in range(logits.shape[2]):
            for x in range(logits.shape[3]):
                exponentials = [math.exp(v) for v in logits[roi, :, y, x].tolist()]
                target = classes[roi] if masks[roi, y, x] else len(exponentials) - 1
                total -= math.log(exponentials[target] / sum(exponentials))
                pixels += 1
    return total / pixels


@st.composite
def cases(draw):
    """Images of RoIs with random masks, classes and logits: (logits, masks, classes, split)."""
    num_classes = draw(st.integers(1, 4))
    side = draw(st.integers(1, 4))
    split = draw(st.lists(st.integers(0, 3), min_size=1, max_size=3).filter(any))
    count = sum(split)
    classes = draw(st.lists(st.integers(0, num_classes - 1), min_size=count, max_size=count))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    masks = torch.rand(count, side, side, generator=generator) < draw(st.sampled_from([0, 0.5, 1]))
    logits = torch.randn(
        count, num_classes + 1, side, side, generator=generator, dtype=torch.float64
    )
    return logits * draw(st.sampled_from([0.1, 1, 5])), masks, classes, split


def images(masks, classes, split):
    result, start = [], 0
    for count in split:
        part = slice(start, start + count)
        result.append(rois(masks[part], classes[part]) if count else without_masks())
        start += count
    return result


@given(cases())
@settings(max_examples=60, deadline=None)
def test_multinomial_loss_against_references(case):
    logits, masks, classes, split = case
    logits.requires_grad_()
    loss, scalars = compute(MultinomialMaskLoss(), logits, images(masks, classes, split))
    assert loss.item() == pytest.approx(loop_reference(logits, masks, classes), rel=1e-9)

    # torch's, on pixels as samples and targets made by a loop
    background = logits.shape[1] - 1
    target = torch.full(masks.shape, background)
    for roi, k in enumerate(classes):
        for y, x in masks[roi].nonzero().tolist():
            target[roi, y, x] = k
    theirs = logits.detach().clone().requires_grad_()
    expected = F.cross_entropy(
        theirs.permute(0, 2, 3, 1).reshape(-1, background + 1), target.flatten()
    )
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(logits.grad, theirs.grad)

    # Scalars: a pixel is called object where its class has more than half.
    wrong, false_positives, false_negatives = 0, 0, 0
    for roi, k in enumerate(classes):
        called = logits[roi].softmax(0)[k] > 0.5
        wrong += (called != masks[roi]).sum().item()
        false_positives += (called & ~masks[roi]).sum().item()
        false_negatives += (~called & masks[roi]).sum().item()
    objects = masks.sum().item()
    others = masks.numel() - objects
    assert scalars["mask_rcnn/accuracy"] == pytest.approx(1 - wrong / masks.numel())
    assert scalars["mask_rcnn/false_positive"] == pytest.approx(false_positives / max(others, 1))
    assert scalars["mask_rcnn/false_negative"] == pytest.approx(false_negatives / max(objects, 1))


@given(cases(), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_multinomial_loss_depends_on_no_order(case, random):
    logits, masks, classes, split = case
    loss = MultinomialMaskLoss()
    value = compute(loss, logits, images(masks, classes, split))[0]
    # RoIs, and their grouping into images
    order = random.sample(range(len(classes)), len(classes))
    shuffled = [rois(masks[order], [classes[i] for i in order])]
    torch.testing.assert_close(compute(loss, logits[order], shuffled)[0], value)
    # classes: outputs and labels renamed alike, the background stays last
    names = random.sample(range(logits.shape[1] - 1), logits.shape[1] - 1)
    renamed = logits.clone()
    renamed[:, names] = logits[:, : len(names)]
    labels = [names[k] for k in classes]
    torch.testing.assert_close(compute(loss, renamed, images(masks, labels, split))[0], value)
    torch.testing.assert_close(
        loss.probabilities(renamed, torch.tensor(labels)),
        loss.probabilities(logits, torch.tensor(classes)),
    )
    # A pixel's outputs moved together stay what they were.
    moved = logits + torch.randn_like(logits[:, :1])
    torch.testing.assert_close(compute(loss, moved, images(masks, classes, split))[0], value)


def test_multinomial_gradient_numerically():
    logits = torch.randn(2, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    instances = [rois(torch.rand(2, 3, 3) < 0.5, [2, 0])]
    assert torch.autograd.gradcheck(
        lambda x: compute(MultinomialMaskLoss(), x, instances)[0], logits
    )


@pytest.mark.parametrize("scale", [1e2, 1e4])
def test_confident_logits_stay_finite(scale):
    """Right and wrong by far: no overflow in loss, gradient or logged scalars."""
    logits = (torch.randn(2, 4, 3, 3) * scale).requires_grad_()
    loss, scalars = compute(
        MultinomialMaskLoss(), logits, [rois(torch.rand(2, 3, 3) < 0.5, [2, 0])]
    )
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all()
    assert all(0 <= value <= 1 for value in scalars.values())
    assert len(scalars) == 3


def test_class_agnostic_is_detectron2s_bit_for_bit():
    logits = torch.randn(4, 1, 5, 5)
    instances = [rois(torch.rand(3, 5, 5) < 0.5, [3, 0, 79]), without_masks()]
    instances += [rois(torch.rand(1, 5, 5) < 0.5, [7])]
    mine, scalars = compute(ClassAgnosticMaskLoss(), logits, instances)
    with EventStorage(0) as storage:
        assert torch.equal(mine, mask_rcnn_loss(logits, instances))
        assert scalars == {name: value for name, (value, _) in storage.latest().items()}
    masks = torch.cat([i.gt_masks.tensor for i in instances if len(i)])
    p = logits[:, 0].double().sigmoid()
    expected = -torch.where(masks, p, 1 - p).log().mean()
    torch.testing.assert_close(mine.double(), expected, rtol=1e-6, atol=0)

    stock = detections([3, 0], [], [79, 7])
    mask_rcnn_inference(logits, stock)
    out = ClassAgnosticMaskLoss().probabilities(logits, torch.tensor([3, 0, 79, 7]))
    assert torch.equal(out, torch.cat([i.pred_masks for i in stock]))


@pytest.mark.parametrize("loss", LOSSES)
def test_with_one_class_all_losses_agree(loss):
    """A multinomial's two outputs are one sigmoid of their difference."""
    x = torch.randn(3, 1, 4, 4)
    instances = [rois(torch.rand(3, 4, 4) < 0.5, [0, 0, 0])]
    logits = torch.cat([x, torch.zeros_like(x)], 1) if loss is MultinomialMaskLoss else x
    assert logits.shape[1] == loss().num_outputs(1)
    value, scalars = compute(loss(), logits, instances)
    expected, expected_scalars = compute(PerClassSigmoidMaskLoss(), x, instances)
    torch.testing.assert_close(value, expected)
    assert scalars == expected_scalars
    zeros = torch.zeros(3, dtype=torch.int64)
    torch.testing.assert_close(loss().probabilities(logits, zeros), x.sigmoid())


# --- probabilities


@pytest.mark.parametrize("loss", LOSSES)
def test_probabilities_are_those_of_the_given_class(loss):
    logits = torch.randn(5, loss().num_outputs(3), 4, 4)
    classes = torch.tensor([2, 0, 1, 1, 2])
    out = loss().probabilities(logits, classes)
    assert out.shape == (5, 1, 4, 4)
    for row, k in enumerate(classes.tolist()):
        if loss is MultinomialMaskLoss:
            expected = logits[row, k].exp() / logits[row].exp().sum(0)
        else:
            output = 0 if loss is ClassAgnosticMaskLoss else k
            expected = 1 / (1 + torch.exp(-logits[row, output]))
        torch.testing.assert_close(out[row, 0], expected)
    assert loss().probabilities(logits[:0], classes[:0]).shape == (0, 1, 4, 4)


@given(cases())
@settings(max_examples=25, deadline=None)
def test_multinomial_probabilities_share_each_pixel(case):
    logits = case[0]
    outputs = [
        MultinomialMaskLoss().probabilities(logits, torch.full((len(logits),), k))
        for k in range(logits.shape[1] - 1)
    ]
    background = 1 / (logits[:, :-1] - logits[:, -1:]).exp().sum(1, keepdim=True).add(1)
    total = sum(outputs) + background
    torch.testing.assert_close(total, torch.ones_like(total))
    assert all(((p >= 0) & (p <= 1)).all() for p in outputs)


def test_class_agnostic_masks_are_the_same_for_every_class():
    logits = torch.randn(3, 1, 4, 4)
    a, b = (
        ClassAgnosticMaskLoss().probabilities(logits, torch.tensor(k)) for k in ([0] * 3, [5, 9, 1])
    )
    assert torch.equal(a, b)
    losses = [
        compute(ClassAgnosticMaskLoss(), logits, [positives(k)])[0] for k in ([0] * 3, [79] * 3)
    ]
    assert torch.equal(*losses)


# --- CUDA


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("loss", LOSSES)
def test_losses_on_cuda_are_deterministic_and_those_of_the_cpu(loss):
    logits = torch.randn(4, loss().num_outputs(3), 28, 28)
    instances = rois(torch.rand(4, 28, 28) < 0.5, [2, 0, 1, 1])
    results = []
    for device in ("cpu", "cuda"):
        x = logits.to(device, copy=True).requires_grad_()
        torch.use_deterministic_algorithms(device == "cuda")
        try:
            value, scalars = compute(loss(), x, [instances.to(device)])
            value.backward()
        finally:
            torch.use_deterministic_algorithms(False)
        results.append((value.cpu(), x.grad.cpu(), scalars))
    torch.testing.assert_close(*results)


# --- by name


@pytest.mark.parametrize(
    ("loss", "outputs"),
    [(PerClassSigmoidMaskLoss, 80), (MultinomialMaskLoss, 81), (ClassAgnosticMaskLoss, 1)],
)
def test_losses_by_name(loss, outputs):
    assert loss.__name__ in MASK_LOSS_REGISTRY
    assert isinstance(build_mask_loss(loss.__name__), loss)
    assert loss().num_outputs(80) == outputs


def test_an_unknown_loss_is_explained():
    allowed = "ClassAgnosticMaskLoss, .*MultinomialMaskLoss, .*PerClassSigmoidMaskLoss"
    with pytest.raises(ConfigError, match=rf"'Sigmoid' is unknown; allowed: {allowed}"):
        build_mask_loss("Sigmoid")


def test_heads_and_configs_may_name_a_registered_loss():
    """As `pooler_type` names a RoI layer."""
    shape, name = ShapeSpec(channels=4, height=14, width=14), "ClassAgnosticMaskLoss"
    convolutional = FCNMaskHead(shape, num_classes=7, loss=name, conv_dim=4)
    connected = MLPMaskHead(shape, num_classes=7, loss=name, fc_dim=8, output_size=6)
    for head in (convolutional, connected):
        assert isinstance(head.loss, ClassAgnosticMaskLoss)
        assert build_mask_loss(head.loss) is head.loss
    assert convolutional.predictor.out_channels == 1 and connected.mask_shape == (1, 6, 6)
    with pytest.raises(ConfigError, match=r"'DiceLoss' is unknown; allowed: .*ClassAgnostic"):
        FCNMaskHead(shape, num_classes=7, loss="DiceLoss")
    cfg = get_config("table2a/r50_fpn", "tiny", [f"model.roi_heads.mask_head.loss={name}"])
    assert cfg.model.roi_heads.mask_head.loss == name
    with pytest.raises(ConfigError, match=r"mask_head\.loss"):
        get_config("table2a/r50_fpn", "tiny", ["model.roi_heads.mask_head.loss=3"])
