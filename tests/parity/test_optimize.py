"""``optimize_for_inference`` against the model that it is given: equal detections."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from detectron2.config import instantiate
from detectron2.layers import Conv2d, FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling.backbone import FPN
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, BottleneckBlock, ResNet
from detectron2.modeling.proposal_generator.rpn import StandardRPNHead
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from torch import nn
from torch.nn import functional

from mask_rcnn_repro import get_config, register
from mask_rcnn_repro.modeling import StageWiseRCNN, optimize_for_inference
from mask_rcnn_repro.modeling import TestTimeAugmentation as TTA  # Test...: not for pytest
from mask_rcnn_repro.modeling.accel import onednn
from mask_rcnn_repro.modeling.inference.fused_layers import FusedConv2d, FusedFlatten, FusedLinear

NORMS = (FrozenBatchNorm2d, nn.modules.batchnorm._BatchNorm)
ROWS = {  # what is special about each
    "table2a/r50_c4": "stage 5 as a head",
    "table2d/roi_align": "stage 5 as the only map",
    "table2a/r50_fpn": "pyramid",
    "table2a/x101_fpn": "grouped convolutions",
    "table2b/softmax": "all outputs of the mask head are read",
    "section4_2/class_agnostic": "one output of the mask head",
    "table2e/mlp_2fc": "fully connected mask head",
    "table3/faster_rcnn_roi_align": "boxes only",
    "table5/keypoint_and_mask": "keypoints",
    "enhanced_r50/non_local": "non-local block",
    "section4_4/r101_fpn_shared": "shared features",
}
TOLERANCE = {"rtol": 1e-3, "atol": 1e-3}


@pytest.fixture(params=[True, False], ids=["fused", "plain"])
def kernels(request, monkeypatch):
    """With oneDNN's kernels, which this machine must have, and without."""
    if request.param:
        assert onednn.fused_kernels(torch.float32)
    else:
        monkeypatch.setattr(onednn, "fused_kernels", lambda dtype: False)
    return request.param


@functools.cache
def make_model(row: str, norm: str | None = "FrozenBN", seed: int = 1) -> nn.Module:
    """A row's model at `tiny`, with its RPN, as if trained: uneven norms, biases, scores."""
    register()
    cfg = get_config(row, profile="tiny", overrides=["train.proposals=null"])
    backbone = cfg.model.backbone
    resnet = backbone.bottom_up if "bottom_up" in backbone else backbone
    resnet.depth = min(resnet.depth, 50)
    if norm is not None:
        resnet.norm = norm
        if "res5" in cfg.model.get("roi_heads", {}):
            cfg.model.roi_heads.res5.norm = norm
    if "roi_heads" in cfg.model:
        cfg.model.roi_heads.box_predictor.test_score_thresh = 0.02
        cfg.model.roi_heads.box_predictor.test_topk_per_image = 20
    torch.manual_seed(seed)
    model = instantiate(cfg.model).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, NORMS):
                module.weight.uniform_(0.6, 1.4)
                module.bias.uniform_(-0.2, 0.2)
                module.running_mean.uniform_(-0.3, 0.3)
                module.running_var.uniform_(0.5, 2.0)
            elif isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
                module.bias.uniform_(-0.1, 0.1)
        for name, parameter in model.named_parameters():
            if ("predictor" in name and parameter.dim() > 1) or "objectness" in name:
                parameter.normal_(std=0.05)
    return model


def make_inputs(sizes=((96, 128), (112, 96))) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(7)
    return [{"image": torch.randint(0, 256, (3, *s), generator=generator).byte()} for s in sizes]


def check_equal(found: list[Any], expected: list[Any]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert len(ours) == len(theirs) > 0
        assert ours.get_fields().keys() == theirs.get_fields().keys()
        assert torch.equal(ours.pred_classes, theirs.pred_classes)
        torch.testing.assert_close(ours.scores, theirs.scores, rtol=1e-4, atol=1e-5)
        for name in ("pred_masks", "pred_keypoint_heatmaps"):
            if theirs.has(name):
                torch.testing.assert_close(ours.get(name), theirs.get(name), **TOLERANCE)
        boxes, others = ours.pred_boxes.tensor, theirs.pred_boxes.tensor
        torch.testing.assert_close(boxes, others, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("row", ROWS)
def test_detections_are_equal(row, kernels):
    model, inputs = make_model(row), make_inputs()
    with torch.no_grad():
        expected = model.inference(inputs, do_postprocess=False)
        found = optimize_for_inference(model).inference(inputs, do_postprocess=False)
    check_equal(found, expected)


@pytest.mark.parametrize("norm", ["BN", "GN", ""])
def test_other_norms(norm):
    model, inputs = make_model("table2a/r50_fpn", norm), make_inputs()
    with torch.no_grad():
        expected = model.inference(inputs, do_postprocess=False)
        found = optimize_for_inference(model).inference(inputs, do_postprocess=False)
    check_equal(found, expected)


def test_stages_joined_and_augmented():
    detector = copy.deepcopy(make_model("table2a/r50_fpn"))
    rpn = make_model("rpn/r50_fpn")
    detector.proposal_generator = None
    model = TTA(StageWiseRCNN(rpn, detector), sizes=[96, 128], flip=True)
    inputs = make_inputs()[:1]
    with torch.no_grad():
        optimized = optimize_for_inference(model)
        check_equal(optimized.inference(inputs), model.inference(inputs))
        check_equal(
            optimized.model.inference(inputs, do_postprocess=False),
            model.model.inference(inputs, do_postprocess=False),
        )


def test_proposals_of_an_rpn_stage():
    model, inputs = make_model("rpn/r50_c4"), make_inputs()
    with torch.no_grad():
        expected, found = model(inputs), optimize_for_inference(model)(inputs)
    for ours, theirs in zip(found, expected, strict=True):
        ours, theirs = ours["proposals"], theirs["proposals"]
        torch.testing.assert_close(
            ours.proposal_boxes.tensor, theirs.proposal_boxes.tensor, rtol=1e-4, atol=1e-2
        )
        torch.testing.assert_close(
            ours.objectness_logits, theirs.objectness_logits, rtol=1e-3, atol=1e-4
        )


def test_no_detections_and_given_boxes():
    model = copy.deepcopy(make_model("table5/keypoint_and_mask"))
    model.roi_heads.box_predictor.test_score_thresh = 2.0
    (found,) = optimize_for_inference(model).inference(make_inputs()[:1], do_postprocess=False)
    (expected,) = model.inference(make_inputs()[:1], do_postprocess=False)
    assert len(found) == 0
    for name in ("pred_masks", "pred_keypoints"):
        assert found.get(name).shape == expected.get(name).shape


def test_the_model_stays_as_it_is_and_can_be_trained_on():
    model = copy.deepcopy(make_model("table2a/r50_fpn")).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modules = [(name, type(module), module.training) for name, module in model.named_modules()]
    optimized = optimize_for_inference(model)
    with torch.no_grad():
        optimized.inference(make_inputs(), do_postprocess=False)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert modules == [(n, type(m), m.training) for n, m in model.named_modules()]
    assert not any(module.training for module in optimized.modules())
    kinds = {type(module).__name__ for module in optimized.modules()}
    assert {"FusedResidual", "FusedFPN", "FusedRPNHead", "FusedFCNHead", "FusedFlatten"} <= kinds


class OwnBlock(nn.Module):
    """A part that nobody here knows: it reads its layer's weights."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(x, self.conv.weight, self.conv.bias, padding=1) + x


def test_unknown_parts_and_hooks_stay():
    seen: list[torch.Tensor] = []
    model = nn.Sequential(nn.Conv2d(3, 4, 3), OwnBlock(4), nn.Conv2d(4, 4, 1), nn.Tanh())
    model[2].register_forward_hook(lambda module, args, output: seen.append(output))
    model.append(nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"))
    x = torch.randn(2, 3, 9, 8)
    with torch.no_grad():
        expected, optimized = model(x), optimize_for_inference(model)
        torch.testing.assert_close(optimized(x), expected, rtol=1e-4, atol=1e-5)
    assert len(seen) == 2
    kinds = [type(layer) for layer in optimized]
    assert kinds == [FusedConv2d, OwnBlock, nn.Conv2d, nn.Tanh, nn.Conv2d]


class OwnTaps(nn.Module):
    """A user's module that looks into its containers, and into PyTorch's attention."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU())
        self.listed = nn.ModuleList([nn.Conv2d(4, 4, 1)])
        self.encoder = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        taps = []
        for layer in self.layers:
            x = layer(x)
            taps.append(x)
        taps.append(functional.conv2d(x, self.listed[0].weight))
        return [*taps, self.encoder(x.flatten(2).transpose(1, 2))]


class OwnOwner(nn.Module):
    """A user's module that looks into Detectron2's parts."""

    def __init__(self) -> None:
        super().__init__()
        self.block = BottleneckBlock(4, 8, bottleneck_channels=4, norm="FrozenBN")
        self.rpn_head = StandardRPNHead(in_channels=8, num_anchors=3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.block.conv3(self.block.conv2(self.block.conv1(x))) + self.block.shortcut(x)
        return self.rpn_head.objectness_logits(self.rpn_head.conv(x))


def test_parts_of_unknown_owners_have_their_layers():
    torch.manual_seed(0)
    model, x = OwnOwner().eval(), torch.randn(2, 4, 7, 7)
    with torch.no_grad():
        optimized = optimize_for_inference(model)
        torch.testing.assert_close(optimized(x), model(x), rtol=1e-4, atol=1e-5)
    assert type(optimized.block.conv1) is FusedConv2d


class OwnPyramid(nn.Module):
    """A user's module around an FPN."""

    def __init__(self, fuse_type: str) -> None:
        super().__init__()
        resnet = ResNet(BasicStem(3, 4, norm="FrozenBN"), [stage(4, 8), stage(8, 16)])
        resnet._out_features = ["res2", "res3"]
        self.fpn = FPN(resnet, ["res2", "res3"], 8, fuse_type=fuse_type)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return list(self.fpn(x).values())


def stage(channels: int, out: int) -> list[nn.Module]:
    return ResNet.make_stage(
        BasicBlock, 1, in_channels=channels, out_channels=out, stride_per_block=[2], norm="FrozenBN"
    )


@pytest.mark.parametrize("fuse_type", ["sum", "avg"])
@pytest.mark.parametrize("known", [True, False])
def test_pyramids_run_their_fused_layers(fuse_type: str, known: bool) -> None:
    torch.manual_seed(0)
    own, x = OwnPyramid(fuse_type).eval(), torch.randn(1, 3, 64, 64)
    model = nn.Sequential(own.fpn) if known else own
    with torch.no_grad():
        optimized = optimize_for_inference(model)
        expected, found = model(x), optimized(x)
        if known:
            expected, found = list(expected.values()), list(found.values())
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    fpn = optimized[0] if known else optimized.fpn
    if type(fpn) is FPN:
        layers = set(fpn.modules())
        assert all(conv in layers for conv in (*fpn.lateral_convs, *fpn.output_convs))
        assert all(isinstance(conv, FusedConv2d) for conv in fpn.lateral_convs)


class OwnHeads(nn.Module):
    """A user's heads that read the logits of all classes, as mask scoring does."""

    def __init__(self) -> None:
        super().__init__()
        self.mask_head = MaskRCNNConvUpsampleHead(ShapeSpec(4), num_classes=3, conv_dims=[4, 4])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mask_head.layers(x)


def test_a_mask_head_of_unknown_heads_has_its_layers():
    model, x = OwnHeads().eval(), torch.randn(2, 4, 7, 7)
    with torch.no_grad():
        optimized = optimize_for_inference(model)
        torch.testing.assert_close(optimized(x), model(x), rtol=1e-4, atol=1e-5)
    assert any(isinstance(m, FusedConv2d) for m in optimized.modules())


def test_containers_of_unknown_parts_stay():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 3, 1), OwnTaps()).eval()
    x = torch.randn(2, 3, 7, 6)
    with torch.no_grad():
        optimized = optimize_for_inference(model)
        torch.testing.assert_close(optimized(x), model(x), rtol=1e-4, atol=1e-5)
    assert type(optimized[0]) is FusedConv2d


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("images", [0, 1, 3])
def test_convolution_with_norm_addition_and_relu(kernels, groups, images):
    conv = Conv2d(
        4, 6, 3, stride=2, padding=2, dilation=2, groups=groups, norm=nn.BatchNorm2d(6)
    ).eval()
    conv.norm.running_mean.uniform_(-1, 1)
    conv.norm.running_var.uniform_(0.5, 2)
    x = torch.randn(images, 4, 11, 8)
    with torch.no_grad():
        plain = conv(x)
        add = torch.randn(plain.shape)
        fused = FusedConv2d.of(conv, torch.float32)
        torch.testing.assert_close(fused(x), plain, rtol=1e-4, atol=1e-5)
        fused = FusedConv2d.of(conv, torch.float32, relu=True)
        expected = (plain + add).relu()
        torch.testing.assert_close(fused(x, add.clone()), expected, rtol=1e-4, atol=1e-5)


def test_flattened_channels_last_maps_are_read_as_they_lie(kernels):
    layer = nn.Linear(5 * 3 * 2, 7)
    fused = FusedFlatten(layer.weight, layer.bias, relu=True, dtype=torch.float32)
    with torch.no_grad():
        for images in (4, 0):
            x = torch.randn(images, 5, 3, 2)
            expected = layer(x.flatten(1)).relu()
            for form in (torch.contiguous_format, torch.channels_last):
                found = fused(x.contiguous(memory_format=form))
                torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_bfloat16_is_near_and_predictions_are_float32(kernels):
    model, inputs = make_model("table2a/r50_fpn"), make_inputs()
    half = optimize_for_inference(model, torch.bfloat16)
    assert half.roi_heads.box_predictor.cls_score.dtype == torch.float32
    assert half.proposal_generator.rpn_head.predictor.dtype == torch.float32
    with torch.no_grad():
        expected = model.backbone(inputs[0]["image"][None].float() / 64)
        with torch.autocast("cpu", torch.bfloat16):
            found = half.backbone(inputs[0]["image"][None].float() / 64)
            (detections,) = half.inference(inputs[:1], do_postprocess=False)
    for name, value in expected.items():
        error = (found[name].float() - value).norm() / value.norm()
        assert 1e-5 < error < 0.05
    assert detections.scores.dtype == detections.pred_masks.dtype == torch.float32


@pytest.mark.parametrize("fault", [AttributeError, RuntimeError, TypeError])
def test_kernels_that_are_gone_are_not_used(fault, monkeypatch):
    class Gone:
        def __getattr__(self, name: str) -> Any:
            raise fault(name)

    monkeypatch.setattr(onednn, "_ops", Gone())
    onednn.fused_kernels.cache_clear()
    try:
        assert not onednn.fused_kernels(torch.float32)
        x, layer = torch.randn(3, 4), nn.Linear(4, 2)
        with torch.no_grad():
            torch.testing.assert_close(FusedLinear(layer.weight, layer.bias)(x), layer(x))
    finally:
        onednn.fused_kernels.cache_clear()


def test_kernels_that_answer_wrong_are_not_used(monkeypatch):
    class Wrong:
        def __getattr__(self, name: str) -> Any:
            if name == "_linear_pointwise":
                return lambda *args: 2 * getattr(torch.ops.mkldnn, name)(*args)
            return getattr(torch.ops.mkldnn, name)

    monkeypatch.setattr(onednn, "_ops", Wrong())
    onednn.fused_kernels.cache_clear()
    try:
        assert not onednn.fused_kernels(torch.float32)
    finally:
        onednn.fused_kernels.cache_clear()
