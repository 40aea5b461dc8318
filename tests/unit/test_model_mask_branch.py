"""Mask heads: geometry, parameters, parity with Detectron2, every head with every loss."""

import itertools
import math

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import MaskRCNNConvUpsampleHead
from detectron2.modeling.roi_heads.mask_head import mask_rcnn_inference
from detectron2.utils.events import EventStorage
from omegaconf import OmegaConf

from mask_rcnn_repro.config import load_config
from mask_rcnn_repro.config.validation import config_problems
from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.modeling import (
    ClassAgnosticMaskLoss,
    FCNMaskHead,
    MaskLoss,
    MLPMaskHead,
    MultinomialMaskLoss,
    PerClassSigmoidMaskLoss,
)

from .mask_helpers import LOSSES, detections, positives, without_masks

SHAPE = ShapeSpec(channels=6, height=14, width=14)


def fcn(loss, num_classes=3, **kwargs):
    arguments = {"num_conv": 2, "conv_dim": 8, **kwargs}
    return FCNMaskHead(SHAPE, num_classes=num_classes, loss=loss, **arguments)


def mlp(loss, num_classes=3, **kwargs):
    return MLPMaskHead(SHAPE, num_classes=num_classes, loss=loss, **{"fc_dim": 8, **kwargs})


HEADS = [fcn, mlp]


# --- the fully convolutional head


@pytest.mark.parametrize(
    ("loss", "classes", "msra"),
    [
        (PerClassSigmoidMaskLoss, 80, math.sqrt(2 / 80)),  # fan-out: one output for each class
        (MultinomialMaskLoss, 80, math.sqrt(2 / 81)),  # and background
        (PerClassSigmoidMaskLoss, 1, 0.001),
        (ClassAgnosticMaskLoss, 80, 0.001),
    ],
)
def test_initial_weights_of_the_last_layer(loss, classes, msra):
    """Detectron2's, or Detectron's; other layers do not depend on the choice."""
    heads = {}
    for name in ("normal", "msra"):
        torch.manual_seed(0)
        heads[name] = fcn(loss(), classes, conv_dim=256, num_conv=0, predictor_init=name)
        assert not heads[name].predictor.bias.any()
    for name, deviation in (("normal", 0.001), ("msra", msra)):
        weight = heads[name].predictor.weight
        tolerance = 0.2 if len(weight) == 1 else 0.02  # 256 weights, or 20480
        assert weight.std().item() == pytest.approx(deviation, rel=tolerance)
        assert weight.mean().abs().item() < 0.2 * deviation
    assert torch.equal(heads["normal"].deconv.weight, heads["msra"].deconv.weight)
    with pytest.raises(ConfigError, match=r"'normal' or 'msra', .*'zero'"):
        fcn(loss(), predictor_init="zero")


@pytest.mark.parametrize(("num_conv", "side_in", "side_out"), [(4, 14, 28), (0, 7, 14)])
def test_fcn_head_geometry(num_conv, side_in, side_out):
    head = fcn(PerClassSigmoidMaskLoss(), num_conv=num_conv)
    for rois in (0, 2):
        out = head.layers(torch.randn(rois, 6, side_in, side_in))
        assert out.shape == (rois, 3, side_out, side_out)


@pytest.mark.parametrize(
    ("loss", "outputs"), [(PerClassSigmoidMaskLoss, 3), (ClassAgnosticMaskLoss, 1)]
)
def test_fcn_head_is_detectron2s(loss, outputs):
    """Bit for bit, class-specific and class-agnostic; detections keep their classes."""
    torch.manual_seed(0)
    theirs = MaskRCNNConvUpsampleHead(SHAPE, num_classes=outputs, conv_dims=[8] * 5)
    ours = fcn(loss(), num_conv=4)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(3, 6, 14, 14)
    mine, stock = detections([0, 2], [], [1]), detections([0, 2], [], [1])
    ours.eval()(x, mine)
    mask_rcnn_inference(theirs.layers(x), stock)
    for a, b in zip(mine, stock, strict=True):
        assert torch.equal(a.pred_masks, b.pred_masks)
    targets = [positives([0, 2]), without_masks(), positives([1])]
    with EventStorage(0):
        assert torch.equal(ours.train()(x, targets)["loss_mask"], theirs(x, targets)["loss_mask"])


# --- the fully connected head


@pytest.mark.parametrize(
    ("num_fc", "loss", "expected"),
    [
        # 256 14^2 1024 + 1024, 1024 1024 + 1024, 1024 (80 28^2) + 80 28^2
        (2, PerClassSigmoidMaskLoss, 51_381_248 + 1_049_600 + 64_288_000),
        (3, PerClassSigmoidMaskLoss, 51_381_248 + 2 * 1_049_600 + 64_288_000),
        # 28^2 (1024 + 1) for each output
        (2, MultinomialMaskLoss, 51_381_248 + 1_049_600 + 64_288_000 + 803_600),
        (2, ClassAgnosticMaskLoss, 51_381_248 + 1_049_600 + 803_600),
    ],
)
def test_number_of_parameters_of_the_papers_mlp(num_fc, loss, expected):
    with torch.device("meta"):
        shape = ShapeSpec(channels=256, height=14, width=14)
        head = MLPMaskHead(shape, num_classes=80, loss=loss(), num_fc=num_fc)
    assert sum(p.numel() for p in head.parameters()) == expected


def test_mlp_head_by_hand():
    """Layer by layer: every output sees every place of the RoI; the last layer has no ReLU."""
    head = mlp(PerClassSigmoidMaskLoss(), num_fc=2, output_size=5)
    assert list(head.state_dict()) == [
        f"{layer}.{kind}"
        for layer in ("fcs.fc1", "fcs.fc2", "predictor")
        for kind in ("weight", "bias")
    ]
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(2, 6, 14, 14)
    weights = dict(head.named_parameters())
    hidden = x.reshape(2, -1)
    for layer in ("fcs.fc1", "fcs.fc2"):
        hidden = (hidden @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"]).clamp(min=0)
    flat = hidden @ weights["predictor.weight"].T + weights["predictor.bias"]
    out = head.layers(x)
    assert out.shape == (2, 3, 5, 5) and (out < 0).any()
    for k, i, j in itertools.product(range(3), range(5), range(5)):
        torch.testing.assert_close(out[:, k, i, j], flat[:, (k * 5 + i) * 5 + j])


def test_initial_weights_of_the_mlp():
    """Detectron2's: Xavier in hidden layers, the predictor's deviation 0.001, no biases."""
    torch.manual_seed(0)
    head = mlp(PerClassSigmoidMaskLoss(), fc_dim=64)
    bound = math.sqrt(3 / (6 * 14 * 14))  # c2_xavier_fill: uniform, variance 1 / fan_in
    assert 0.99 * bound < head.fcs.fc1.weight.abs().max() <= bound
    assert head.predictor.weight.std().item() == pytest.approx(0.001, rel=0.02)
    biases = [p for name, p in head.named_parameters() if name.endswith("bias")]
    assert len(biases) == 3 and not any(b.any() for b in biases)


def test_mlp_layers_compile_in_one_graph_for_any_number_of_rois():
    head = mlp(MultinomialMaskLoss(), output_size=4).eval()
    compiled = torch.compile(head.layers, backend="eager", fullgraph=True, dynamic=True)
    for rois in (3, 5, 0):
        x = torch.randn(rois, 6, 14, 14)
        assert torch.equal(compiled(x), head.layers(x))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_fc": 0}, "num_fc must be at least 1, got 0"),
        ({"fc_dim": 0}, "fc_dim must be at least 1, got 0"),
        ({"output_size": -1}, "output_size must be at least 1, got -1"),
        ({"input_shape": ShapeSpec(channels=6)}, "height and width"),
    ],
)
def test_impossible_mlps_are_explained(kwargs, message):
    arguments = {"input_shape": SHAPE, "num_classes": 3, "loss": PerClassSigmoidMaskLoss()}
    with pytest.raises(ConfigError, match=message):
        MLPMaskHead(**{**arguments, **kwargs})


# --- every head with every loss


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("num_classes", [1, 3])
def test_heads_and_losses_combine(head, loss, num_classes):
    model = head(loss(), num_classes)
    outputs = {PerClassSigmoidMaskLoss: num_classes, MultinomialMaskLoss: num_classes + 1}
    x = torch.randn(3, 6, 14, 14)
    assert model.layers(x).shape == (3, outputs.get(loss, 1), 28, 28)

    last = num_classes - 1
    with EventStorage(0):
        images = [positives([last, 0], 28), without_masks(), positives([last], 28)]
        losses = model(x, images)
    assert list(losses) == ["loss_mask"]
    # Initial weights know nothing: log 2 for a sigmoid, log O for a softmax.
    chance = math.log(num_classes + 1) if loss is MultinomialMaskLoss else math.log(2)
    assert losses["loss_mask"].item() == pytest.approx(chance, rel=0.02)
    losses["loss_mask"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert model.predictor.weight.grad.any()

    images = model.eval()(x, detections([last, 0], [], [last]))
    assert [i.pred_masks.shape[0] for i in images] == [2, 0, 1]
    expected = loss().probabilities(model.layers(x), torch.tensor([last, 0, last]))
    assert torch.equal(torch.cat([i.pred_masks for i in images]), expected)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("loss", LOSSES)
def test_without_rois_every_parameter_has_a_gradient(head, loss):
    """Distributed training waits for all of them."""
    model = head(loss())
    x = torch.zeros(0, 6, 14, 14)
    with EventStorage(0):
        value = model(x, [without_masks(), positives([])])["loss_mask"]
    value.backward()
    assert value.item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())
    (image,) = model.eval()(x, detections([]))
    assert image.pred_masks.shape == (0, 1, 28, 28)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("loss", LOSSES)
def test_a_few_steps_learn_the_masks(head, loss):
    torch.manual_seed(0)
    model = head(loss(), fc_dim=16) if head is mlp else head(loss())
    x = torch.randn(2, 6, 14, 14)
    images = [positives([2], 28), positives([0], 28)]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    values = []
    for _ in range(25):
        with EventStorage(0):
            value = model(x, images)["loss_mask"]
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.6 * values[0]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("loss", LOSSES)
def test_mixed_precision_has_float32_logits_losses_and_masks(head, loss):
    seen = []

    class Spy(loss):
        def loss(self, logits, instances, vis_period=0):
            seen.append(logits.dtype)
            return super().loss(logits, instances, vis_period)

    model = head(Spy())
    x = torch.randn(1, 6, 14, 14)
    with torch.autocast("cpu", torch.bfloat16), EventStorage(0):
        assert model.layers(x).dtype == torch.bfloat16
        value = model(x, [positives([1], 28)])["loss_mask"]
        (image,) = model.eval()(x, detections([1]))
    assert seen == [torch.float32]
    assert value.dtype == image.pred_masks.dtype == torch.float32
    value.backward()
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize("head", HEADS)
def test_loss_decides_the_outputs_and_the_weight_scales_it(head):
    class TwoChannels(MaskLoss):
        def num_outputs(self, num_classes):
            return 2

        def loss(self, logits, instances, vis_period=0):
            return logits.sum() + vis_period

        def probabilities(self, logits, classes):
            return logits[:, 1:].softmax(1)

    model = head(TwoChannels(), num_classes=80, loss_weight=0.5, vis_period=7)
    x = torch.randn(1, 6, 14, 14)
    logits = model.layers(x)
    assert logits.shape[1] == 2
    assert torch.equal(model(x, [])["loss_mask"], 0.5 * (logits.sum() + 7))
    assert not any("loss" in key for key in model.state_dict())


# --- configs


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("row", ["table2a/r50_c4", "table2a/r50_fpn"])
def test_rows_stay_sound_with_any_loss_and_the_mlp(row, loss):
    cfg = load_config(row)
    cfg.model.roi_heads.mask_head.loss = L(loss)()
    assert config_problems(cfg) == []
    if row.endswith("fpn"):
        old = cfg.model.roi_heads.mask_head
        cfg.model.roi_heads.mask_head = L(MLPMaskHead)(
            input_shape=old.input_shape, num_classes="${..num_classes}", loss=L(loss)(), fc_dim=2
        )
        assert config_problems(cfg) == []
        head = instantiate(cfg.model.roi_heads.mask_head)
        assert head.fcs.fc1.in_features == 256 * 14 * 14
        assert head.predictor.out_features == loss().num_outputs(80) * 28 * 28


@pytest.mark.parametrize("loss", LOSSES)
def test_the_loss_and_not_the_class_count_makes_masks_class_agnostic(loss):
    """A head that is told one class, beside a box branch of 80, has no mask for most of them."""
    cfg = load_config("table2a/r50_c4")
    cfg.model.roi_heads.mask_head.loss = L(loss)()
    OmegaConf.update(cfg, "model.roi_heads.mask_head.num_classes", 1)
    (problem,) = config_problems(cfg)
    assert problem.startswith("model.roi_heads.mask_head.num_classes is 1, but")
    assert problem.endswith("loss._target_=mask_rcnn_repro.modeling.ClassAgnosticMaskLoss")
    cfg.model.roi_heads.num_classes = 1
    assert config_problems(cfg) == []


def test_the_advised_override_works():
    override = (
        "model.roi_heads.mask_head.loss._target_=mask_rcnn_repro.modeling.ClassAgnosticMaskLoss"
    )
    cfg = load_config("table2a/r50_c4", overrides=[override])
    assert isinstance(instantiate(cfg.model.roi_heads.mask_head.loss), ClassAgnosticMaskLoss)
