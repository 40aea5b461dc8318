"""ResNet, ResNeXt, FPN: Detectron2's at full width; sizes and clear errors below it."""

import pytest
import torch
from detectron2.layers import get_norm
from detectron2.modeling.backbone import BasicStem, ResNet
from detectron2.modeling.backbone.resnet import BottleneckBlock
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.modeling import (
    build_fpn,
    build_norm,
    build_res5,
    build_resnet,
    res5_shape,
    resnet_channels,
)
from mask_rcnn_repro.modeling.backbone.norm import FoldedConv2d, group_count
from mask_rcnn_repro.modeling.backbone.resnet import resnet_widths

ALL = ["res2", "res3", "res4", "res5"]


def shapes(module):
    return {k: tuple(v.shape) for k, v in module.state_dict().items()}


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_standard_networks_have_detectron2s_keys_and_shapes(depth):
    with torch.device("meta"):
        ours = build_resnet(depth, out_features=ALL)
        theirs = ResNet(
            BasicStem(norm="FrozenBN"),
            ResNet.make_default_stages(depth, norm="FrozenBN"),
            out_features=ALL,
            freeze_at=2,
        )
    assert shapes(ours) == shapes(theirs)
    frozen = [n for n, p in ours.named_parameters() if not p.requires_grad]
    assert frozen == [n for n, p in theirs.named_parameters() if not p.requires_grad]


def test_weights_of_detectron2s_network_give_its_outputs():
    torch.manual_seed(0)
    theirs = ResNet(BasicStem(norm="BN"), ResNet.make_default_stages(18, norm="BN"), None, ALL)
    ours = build_resnet(18, out_features=ALL, norm="BN", freeze_at=0)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(1, 3, 64, 64)
    for a, b in zip(ours(x).values(), theirs(x).values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("groups", "width", "multiplier", "expected"),
    # (groups, 3x3 channels) of stage 2 and the weight's second dimension, channels per group
    [(64, 4, 1.0, (64, 256, 4)), (32, 8, 1.0, (32, 256, 8)), (64, 4, 0.125, (8, 32, 4))],
)
def test_resnext_groups(groups, width, multiplier, expected):
    with torch.device("meta"):
        net = build_resnet(
            50,
            out_features=["res5"],
            num_groups=groups,
            width_per_group=width,
            width_multiplier=multiplier,
        )
    conv = net.res2[0].conv2
    assert (conv.groups, conv.out_channels, conv.weight.shape[1]) == expected
    last = net.res5[0].conv2  # stage 5 has 8 times the channels in as many groups
    assert (last.groups, last.out_channels) == (expected[0], expected[1] * 8)
    assert net.output_shape()["res5"].channels == 2048 * multiplier


@pytest.mark.parametrize(("in_1x1", "strides"), [(True, (2, 1)), (False, (1, 2))])
def test_stride_position(in_1x1, strides):
    net = build_resnet(50, out_features=["res3"], width_multiplier=0.125, stride_in_1x1=in_1x1)
    block = net.res3[0]
    assert (block.conv1.stride[0], block.conv2.stride[0]) == strides


@pytest.mark.parametrize("depth", [18, 50])
def test_narrow_network_strides_and_channels(depth):
    net = build_resnet(depth, out_features=["stem", *ALL], width_multiplier=0.125, norm="GN")
    outputs = net(torch.randn(1, 3, 64, 96))
    res2 = 8 if depth == 18 else 32
    assert [tuple(v.shape) for v in outputs.values()] == [
        (1, 8, 16, 24),
        (1, res2, 16, 24),
        (1, res2 * 2, 8, 12),
        (1, res2 * 4, 4, 6),
        (1, res2 * 8, 2, 3),
    ]
    for stage in (2, 3, 4, 5):
        spec = net.output_shape()[f"res{stage}"]
        assert spec.channels == resnet_channels(stage, depth, width_multiplier=0.125)
        assert spec.stride == 2**stage


def test_dilated_stage_5_keeps_stride_16():
    net = build_resnet(50, out_features=["res5"], width_multiplier=0.125, res5_dilation=2)
    assert net.output_shape()["res5"].stride == 16
    assert net.res5[0].conv2.dilation == (2, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 51}, "allowed: 18, 34, 50, 101, 152"),
        ({"depth": 18, "num_groups": 32}, "num_groups=32 needs depth"),
        ({"depth": 50, "width_multiplier": 0.3}, r"stem_out_channels 64 x 0.3|width_per_group 64"),
        ({"depth": 50, "width_multiplier": 0.0}, "positive whole number"),
        ({"depth": 50, "num_groups": 64, "width_multiplier": 1 / 128}, "num_groups 64"),
        ({"depth": 50, "stem_out_channels": 0}, "stem_out_channels=0 must be positive"),
        ({"depth": 50, "out_features": ["p2"]}, "out_features=.*must name"),
        ({"depth": 50, "out_features": []}, "must name at least one"),
        ({"depth": 18, "res5_dilation": 2}, "res5_dilation=2 at depth=18"),
        ({"depth": 50, "norm": "LayerNorm"}, "norm='LayerNorm' is unknown; allowed"),
    ],
)
def test_impossible_networks_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        build_resnet(**{"out_features": ["res2"], **arguments})


def test_widths_by_hand():
    widths = resnet_widths(101, num_groups=64, width_per_group=4)
    assert widths == (64, 256, 64, 256)
    assert [widths.out_channels(s) for s in (2, 3, 4, 5)] == [256, 512, 1024, 2048]
    assert [widths.bottleneck_channels(s) for s in (2, 5)] == [256, 2048]
    assert resnet_widths(18, width_multiplier=0.25)[:2] == (16, 16)


@given(st.sampled_from([18, 50, 101]), st.integers(1, 64), st.integers(2, 5))
def test_channels_follow_the_multiplier(depth, parts, stage):
    base = resnet_channels(stage, depth)
    assert resnet_channels(stage, depth, width_multiplier=parts / 64) == base * parts // 64


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize(("stride", "side"), [(1, 7), (2, 4)])
def test_res5_head(depth, stride, side):
    head = build_res5(depth, width_multiplier=0.125, norm="GN", first_stride=stride)
    channels_in = resnet_channels(4, depth, width_multiplier=0.125)
    spec = res5_shape(depth, resolution=7, first_stride=stride, width_multiplier=0.125)
    for rois in (0, 2):
        out = head(torch.randn(rois, channels_in, 7, 7))
        assert out.shape == (rois, spec.channels, spec.height, spec.width)
    assert spec.height == side
    assert not any("norm.running" in k for k in head.state_dict())


def test_res5_head_has_the_backbones_keys_and_shapes():
    with torch.device("meta"):
        stage = build_resnet(50, out_features=["res5"]).res5
        head = build_res5(50)
    assert shapes(head) == shapes(stage)
    # 1x1, 3x3, 1x1 convolutions; the first block has a 1x1 shortcut.
    first = 1024 * 512 + 9 * 512 * 512 + 512 * 2048 + 1024 * 2048
    later = 2048 * 512 + 9 * 512 * 512 + 512 * 2048
    assert sum(p.numel() for p in head.parameters()) == first + 2 * later
    with pytest.raises(ConfigError, match="first_stride=3"):
        build_res5(50, first_stride=3)


def test_fpn_levels():
    bottom_up = build_resnet(18, out_features=ALL, width_multiplier=0.125, norm="GN")
    fpn = build_fpn(bottom_up, in_features=ALL, out_channels=24, norm="GN")
    outputs = fpn(torch.randn(1, 3, 64, 64))
    assert {k: tuple(v.shape) for k, v in outputs.items()} == {
        "p2": (1, 24, 16, 16),
        "p3": (1, 24, 8, 8),
        "p4": (1, 24, 4, 4),
        "p5": (1, 24, 2, 2),
        "p6": (1, 24, 1, 1),
    }
    assert fpn.size_divisibility == 32


@pytest.mark.parametrize(
    ("channels", "groups"),
    [(256, 32), (64, 32), (32, 8), (48, 12), (16, 4), (8, 2), (6, 1), (1, 1)],
)
def test_group_count_by_hand(channels, groups):
    assert group_count(channels) == groups


@given(st.integers(1, 4096))
def test_group_count_divides(channels):
    groups = group_count(channels)
    assert channels % groups == 0 and 1 <= groups <= 32


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("rois", [2, 0])
def test_folded_norms_give_detectron2s_outputs_and_gradients(rois, memory_format):
    """A stage 5 whose convolutions have their norms folded in, and the same of Detectron2."""
    ours = build_res5(50, width_multiplier=1 / 16, norm="FrozenBN", first_stride=2)
    theirs = nn.Sequential(
        *ResNet.make_stage(
            BottleneckBlock, 3, stride_per_block=[2, 1, 1], in_channels=64, out_channels=128,
            bottleneck_channels=32, norm="FrozenBN", stride_in_1x1=False,
        )
    )  # fmt: skip
    assert {type(m) for m in ours.modules() if isinstance(m, nn.Conv2d)} == {FoldedConv2d}
    with torch.no_grad():
        for buffer in theirs.buffers():
            buffer.uniform_(0.5, 2)
    ours.load_state_dict(theirs.state_dict())
    results = []
    maps, grad = torch.randn(rois, 64, 6, 6), torch.randn(rois, 128, 3, 3)
    for stage in (ours.train(), theirs.train()):
        given = maps.clone(memory_format=memory_format).requires_grad_()
        y = stage.to(memory_format=memory_format)(given)
        y.backward(grad)
        gradients = {name: p.grad for name, p in stage.named_parameters()}
        results.append((y.detach(), given.grad, gradients))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


def test_a_watched_norm_is_not_folded():
    head = build_res5(50, width_multiplier=1 / 16)
    seen = []
    norm = head.train()[0].conv1.norm
    norm.register_forward_hook(lambda module, given, result: seen.append(result))
    head(torch.randn(1, 64, 7, 7))
    assert [x.shape for x in seen] == [(1, 32, 7, 7)]


def test_norms_are_detectron2s():
    for name in ("FrozenBN", "BN", "SyncBN", "GN"):
        assert repr(build_norm(name, 64)) == repr(get_norm(name, 64))
    assert build_norm("", 64) is None
