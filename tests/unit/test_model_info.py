"""Parameters and FLOPs: by hand, against torchvision's model and PyTorch's own counter."""

from __future__ import annotations

import json

import pytest
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mask_rcnn_repro.config import load_config
from mask_rcnn_repro.engine.builders import build_model
from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.registration import register
from mask_rcnn_tools.model_info.cli import parse_args
from mask_rcnn_tools.model_info.flops import _trace, count_flops
from mask_rcnn_tools.model_info.info import model_info
from mask_rcnn_tools.model_info.main import format_infos, run
from mask_rcnn_tools.model_info.parts import PARTS, part_of

SMALL = (64, 96)


@pytest.fixture(scope="module", autouse=True)
def _registered():
    register()


@pytest.fixture(scope="module")
def fpn():
    """Full-scale R50-FPN with its own RPN, on a small image."""
    overrides = ["train.proposals=null"]
    cfg = load_config("table2a/r50_fpn", "paper", overrides)
    return model_info(cfg, "fpn", SMALL, proposals=1000, detections=100, overrides=overrides)


def test_parameters_are_torchvisions(fpn):
    other = torchvision.models.detection.maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=81
    )
    theirs = sum(p.numel() for p in other.parameters())
    # norm layers trained from scratch are no frozen statistics; torchvision has boxes and masks of
    # the background, too
    theirs -= sum(
        p.numel() for m in other.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()
    )
    background = 4 * (1024 + 1) + (256 + 1)
    assert fpn.total.parameters == theirs - background
    assert round(fpn.total.parameters / 1e6, 1) == 44.3
    parts = fpn.networks["detector"]
    assert list(parts) == [p for p in PARTS if p in parts]
    assert parts["mask branch"].parameters == (
        4 * (256 * 256 * 9 + 256) + (256 * 256 * 4 + 256) + (256 * 80 + 80)
    )
    # the stem and stage 2 are frozen
    frozen = 64 * 3 * 49 + (64 * 64 + 64 * 64 * 9 + 64 * 256 + 64 * 256)
    frozen += 2 * (256 * 64 + 64 * 64 * 9 + 64 * 256)
    backbone = parts["backbone"]
    assert backbone.parameters - backbone.trainable == frozen
    assert fpn.total.parameters - fpn.total.trainable == backbone.parameters - backbone.trainable


def test_flops_of_the_branches_by_hand(fpn):
    parts = fpn.networks["detector"]
    mask = parts["mask branch"].flops
    convolutions = 4 * 256 * 256 * 9 * 14**2 + 256 * 256 * 4 * 14**2 + 256 * 80 * 28**2
    assert mask["conv"] == 100 * convolutions
    assert mask["roi_align"] == 100 * 256 * 14**2 * 4 * 4  # 4 samples of 4 neighbours
    box = parts["box branch"].flops
    assert box["linear"] == 1000 * (256 * 49 * 1024 + 1024**2 + 1024 * 81 + 1024 * 320)
    assert box["roi_align"] == 1000 * 256 * 49 * 4 * 4
    # 5 levels of strides 4 to 64 of 64 x 96; 3 anchors
    cells = sum((64 // s) * (96 // s) for s in (4, 8, 16, 32)) + 1 * 2
    assert parts["RPN"].flops["conv"] == cells * (256 * 256 * 9 + 256 * 3 + 256 * 12)
    assert not fpn.uncounted


def test_flops_of_the_backbone_are_pytorchs(fpn):
    cfg = load_config("table2a/r50_fpn", "paper", ["train.proposals=null"])
    model = build_model(cfg, torch.device("cpu")).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.backbone(torch.zeros(1, 3, *SMALL))
    parts = fpn.networks["detector"]
    ours = parts["backbone"].flops["conv"] + parts["FPN"].flops["conv"]
    assert 2 * ours == counter.get_total_flops()  # PyTorch counts a multiply-add as two
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.backbone.bottom_up(torch.zeros(1, 3, *SMALL))
    assert 2 * parts["backbone"].flops["conv"] == counter.get_total_flops()


@pytest.mark.parametrize("config", ["table2a/r50_c4", "enhanced_r50/non_local", "table6/roi_align"])
def test_a_whole_model_is_counted(config):
    cfg = load_config(config, "tiny", ["train.proposals=null"])
    info = model_info(cfg, config, SMALL, proposals=7, detections=3)
    parts = info.networks["detector"]
    assert not info.uncounted
    assert all(part.total_flops > 0 for part in parts.values())
    assert "other" not in parts
    if config == "table2a/r50_c4":
        # stage 5 runs on proposals, and again on detections
        model = build_model(cfg, torch.device("cpu")).eval()
        rois = torch.zeros(7 + 3, model.roi_heads.res5[0].in_channels, 7, 7)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.roi_heads.res5(rois)
        assert 2 * parts["stage 5 of RoIs"].flops["conv"] == counter.get_total_flops()
    if config == "enhanced_r50/non_local":
        cells, channels = 4 * 6, model_channels(cfg)
        attention = parts["backbone"].flops["scaled_dot_product_attention"]
        assert attention == cells**2 * channels * 2


def model_channels(cfg):
    """Width of the embedding of the one non-local block."""
    model = build_model(cfg, torch.device("cpu"))
    block = next(m for m in model.modules() if type(m).__name__ == "NonLocalBlock")
    return next(m for m in block.modules() if isinstance(m, nn.Conv2d)).out_channels


def test_linear_in_proposals_and_detections():
    cfg = load_config("table2a/r50_fpn", "tiny", ["train.proposals=null"])
    model = build_model(cfg, torch.device("cpu"))
    few, many = (count_flops(model, *SMALL, n, 2 * n).by_part for n in (5, 50))
    for part in ("box branch", "mask branch"):
        assert {op: 10 * n for op, n in few[part].items()} == dict(many[part])
    for part in ("backbone", "FPN", "RPN"):
        assert few[part] == many[part]


def test_unknown_operators_are_named():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = nn.Linear(4, 4)

        def forward(self, x):
            return torch.cumsum(self.backbone(x), dim=0)

    odd = Odd()
    flops = _trace(odd, lambda x: odd(x), (torch.zeros(2, 4),), "backbone")
    assert flops.by_part["backbone"]["linear"] == 2 * 4 * 4
    assert dict(flops.uncounted) == {"aten::cumsum": 1}


def test_names_tell_the_part():
    assert part_of("backbone.fpn_lateral2.weight") == "FPN"
    assert part_of("backbone.bottom_up.stem.conv1.weight") == "backbone"
    assert part_of("roi_heads.mask_head.deconv.bias") == "mask branch"
    assert part_of("criterion.weight") == "other"


def test_stage_wise_rows_with_and_without_their_rpn():
    cfg = load_config("table2a/r50_fpn", "tiny")
    joined = model_info(cfg, "joined", SMALL)
    alone = model_info(cfg, "alone", SMALL, alone=True)
    assert list(joined.networks) == ["RPN rpn/r50_fpn", "detector"]
    assert list(alone.networks) == ["detector"]
    assert "RPN" not in alone.networks["detector"]
    stage = joined.networks["RPN rpn/r50_fpn"]
    rest = joined.total.parameters - alone.total.parameters
    assert rest == sum(part.parameters for part in stage.values()) > 0
    assert "without its RPN, rpn/r50_fpn" in format_infos([alone])


def test_the_commands(capsys):
    size = ["--image-size", "64", "96"]
    text = run(parse_args(["table2a/r50_fpn", "table2a/r50_c4", "--profile", "tiny", *size]))
    assert "A  table2a/r50_fpn@tiny: input 64 x 96" in text
    assert "stage 5 of RoIs" in text
    assert "Not counted" in text
    argv = ["--config-file", "table2a/r50_fpn", "--profile", "tiny", "--json", *size]
    (wide,) = json.loads(run(parse_args(argv)))
    (narrow,) = json.loads(run(parse_args([*argv, "model.roi_heads.mask_head.conv_dim=8"])))
    masks = [c["networks"]["detector"]["mask branch"] for c in (wide, narrow)]
    assert masks[0]["parameters"] > masks[1]["parameters"]
    with pytest.raises(SystemExit):
        parse_args(["--profile", "tiny"])
    assert "no config is given" in capsys.readouterr().err
    with pytest.raises(ConfigError):
        run(parse_args(["table2a/r51_fpn"]))
