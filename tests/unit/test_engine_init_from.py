"""Initial weights from runs of this project, and modules that stay as they were loaded."""

from __future__ import annotations

import copy

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from omegaconf import OmegaConf
from torch import nn

from mask_rcnn_repro.config import get_config
from mask_rcnn_repro.engine.builders import build_model, build_optimizer, freeze_module
from mask_rcnn_repro.engine.checkpoint.init_from import load_initial_weights
from mask_rcnn_repro.errors import CheckpointError, ConfigError

from .model_helpers import build, make_inputs, narrow_config, train_step

CPU = torch.device("cpu")


class Part(nn.Module):
    """A convolution with its norm, whose statistics are not those of a new one."""

    def __init__(self, channels=2):
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 1)
        self.norm = nn.BatchNorm2d(channels)
        for value in (self.norm.weight, self.norm.bias, self.norm.running_mean):
            nn.init.normal_(value)
        nn.init.uniform_(self.norm.running_var, 0.5, 2)


def network(*parts, seed=0, **channels):
    torch.manual_seed(seed)
    model = nn.Module()
    for name in parts:
        model.add_module(name, Part(channels.get(name, 2)))
    return model


DETECTOR = ("backbone", "roi_heads")
RPN = ("backbone", "proposal_generator")
SHARED = ("backbone", "proposal_generator", "roi_heads")


@pytest.fixture
def save(tmp_path):
    def do(model, name="model.pth"):
        torch.save({"model": model.state_dict(), "iteration": 3}, tmp_path / name)
        return tmp_path / name

    return do


def same(one, two):
    """Keys of weights that are equal in both models."""
    left, right = one.state_dict(), two.state_dict()
    counters = "num_batches_tracked"
    return {k for k in left if k in right and not k.endswith(counters) and left[k].equal(right[k])}


def keys(*parts):
    names = ("conv.weight", "conv.bias", "norm.weight", "norm.bias")
    return {f"{p}.{n}" for p in parts for n in (*names, "norm.running_mean", "norm.running_var")}


# --- loading ---------------------------------------------------------------------------------


def test_everything_that_both_have_is_filled(save):
    trained, model = network(*DETECTOR), network(*DETECTOR, seed=1)
    assert "backbone.conv.weight" not in same(trained, model)
    load_initial_weights(model, save(trained))
    assert same(trained, model) == keys(*DETECTOR)


def test_parts_that_only_one_has_stay(save):
    trained, model = network(*DETECTOR), network(*RPN, seed=1)
    before = copy.deepcopy(model)
    load_initial_weights(model, save(trained), frozen=["backbone"])
    assert same(trained, model) == keys("backbone")
    assert same(before, model) >= keys("proposal_generator")


def test_an_rpn_is_added(save):
    detector, rpn = network(*DETECTOR), network(*RPN, seed=1)
    rpn.backbone.load_state_dict(detector.backbone.state_dict())
    model = network(*SHARED, seed=2)
    load_initial_weights(model, save(detector), save(rpn, "rpn.pth"), ["backbone"])
    assert same(detector, model) == keys(*DETECTOR)
    assert same(rpn, model) == keys(*RPN)


def test_the_rpn_replaces_one_that_the_detector_has(save):
    detector, rpn = network(*SHARED), network(*RPN, seed=1)
    rpn.backbone.load_state_dict(detector.backbone.state_dict())
    model = network(*SHARED, seed=2)
    load_initial_weights(model, save(detector), save(rpn, "rpn.pth"))
    assert same(rpn, model) == keys(*RPN) and same(detector, model) == keys(*DETECTOR)


@pytest.mark.parametrize("changed", ["conv.weight", "norm.weight", "norm.running_var"])
def test_an_rpn_with_another_backbone_is_refused(save, changed):
    detector, rpn = network(*DETECTOR), network(*RPN, seed=1)
    rpn.backbone.load_state_dict(detector.backbone.state_dict())
    with torch.no_grad():  # by as little as there is
        value = rpn.backbone.state_dict()[changed].view(-1)
        value[0] = torch.nextafter(value[0], value[0] + 1)
    model = network(*SHARED, seed=2)
    before = copy.deepcopy(model.state_dict())
    files = save(detector), save(rpn, "rpn.pth")
    with pytest.raises(
        CheckpointError, match=f"do not share features.*backbone.{changed}"
    ) as error:
        load_initial_weights(model, *files)
    assert all(str(file) in str(error.value) for file in files)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_an_rpn_with_more_backbone_is_refused(save):
    detector, rpn = network(*DETECTOR), network(*RPN)
    rpn.backbone.add_module("more", nn.Linear(1, 1))
    with pytest.raises(CheckpointError, match=r"do not share features.*backbone\.more"):
        load_initial_weights(network(*SHARED), save(detector), save(rpn, "rpn.pth"))


def test_batch_counters_do_not_count(save):
    """A run counts on, and frozen norms may have none."""
    detector, rpn = network(*DETECTOR), network(*RPN, seed=1)
    rpn.backbone.load_state_dict(detector.backbone.state_dict())
    detector.backbone.norm.num_batches_tracked.fill_(9)
    freeze_module(rpn, "backbone")
    model = network(*SHARED, seed=2)
    for name in RPN:
        freeze_module(model, name)
    load_initial_weights(model, save(detector), save(rpn, "rpn.pth"), RPN)
    assert same(detector, model) == keys(*DETECTOR) and same(rpn, model) == keys(*RPN)
    # and from a frozen network into one that is not
    load_initial_weights(network(*RPN, seed=3), save(rpn, "rpn.pth"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.backbone.add_module("more", nn.Linear(1, 1)), "missing in the file: backbone"),
        (lambda m: m.backbone.__delattr__("conv"), "not in the model: backbone.conv.weight"),
        (
            lambda m: m.backbone.add_module("conv", nn.Conv2d(3, 2, 3)),
            r"other shape: backbone.*3, 3",
        ),
    ],
)
def test_other_networks_are_refused_and_named(save, change, message):
    model = network(*DETECTOR, seed=1)
    change(model)
    with pytest.raises(CheckpointError, match=message) as error:
        load_initial_weights(model, save(network(*DETECTOR)))
    assert "model.pth" in str(error.value) and "train.init_from" in str(error.value)


@pytest.mark.parametrize("frozen", ["proposal_generator", "proposal_generator.norm"])
def test_frozen_parts_must_be_filled(save, frozen):
    file = save(network(*DETECTOR))
    load_initial_weights(network(*SHARED), file)
    with pytest.raises(CheckpointError, match=f"missing in the file: {frozen}"):
        load_initial_weights(network(*SHARED), file, frozen=["backbone", frozen])


def test_networks_without_a_common_part_are_refused(save):
    with pytest.raises(CheckpointError, match="no part in common"):
        load_initial_weights(network("trunk"), save(network(*DETECTOR)))


# --- freezing --------------------------------------------------------------------------------


def snapshot(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


def moved(before, module):
    after = module.state_dict()
    return {key for key in before if key in after and not torch.equal(before[key], after[key])}


@pytest.mark.parametrize("kind", ["c4", "fpn"])
def test_frozen_modules_stay_bitwise_and_others_move(kind):
    model = build(narrow_config(kind, norm="BN"))
    before = snapshot(model)
    freeze_module(model, "backbone")
    freeze_module(model, "proposal_generator.rpn_head.conv")
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1)
    for _ in range(3):
        train_step(model, make_inputs())
        optimizer.step()
    frozen = ("backbone.", "proposal_generator.rpn_head.conv.")
    changed = {key for key in moved(before, model) if "num_batches" not in key}
    assert [key for key in changed if key.startswith(frozen)] == []
    statistics = [k for k in before if k.startswith("backbone.") and "running" in k]
    assert len(statistics) > 20 and set(statistics) <= model.state_dict().keys()
    rest = {k for k in before if not k.startswith(frozen) and "num_batches" not in k}
    assert any("running_var" in key for key in rest) == (kind == "c4")  # res5 is a head there
    assert rest and changed == rest


def test_frozen_features_are_those_of_evaluation():
    model = build(narrow_config("fpn", norm="BN")).eval()
    for module in model.backbone.modules():  # statistics unlike those of any batch
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 255
    with torch.no_grad():
        expected = model.backbone(images)
        freeze_module(model, "backbone")
        found = model.train().backbone(images)
    for level, features in expected.items():
        torch.testing.assert_close(found[level], features, rtol=1e-4, atol=1e-4)


def test_a_norm_itself_can_be_frozen():
    model = network("backbone")
    freeze_module(model, "backbone.norm")
    assert isinstance(model.backbone.norm, FrozenBatchNorm2d)
    assert model.backbone.conv.weight.requires_grad


@pytest.mark.parametrize("name", ["backbon", "backbone.cnv", "roi_heads", "backbone.conv.weight"])
def test_unknown_modules_are_refused(name):
    with pytest.raises(ConfigError, match=r"train\.freeze") as error:
        freeze_module(network("backbone"), name)
    assert repr(name) in str(error.value) and "backbone" in str(error.value)


@pytest.mark.parametrize("name", [".", "backbone."])
def test_names_that_are_none_are_refused(name):
    with pytest.raises(ConfigError, match=r"train\.freeze"):
        freeze_module(network("backbone"), name)


def test_freezing_by_config_leaves_nothing_to_the_optimizer():
    weights = "train.init_checkpoint=some.pth"
    cfg = get_config("table2a/r50_fpn", "tiny", ["train.freeze=[backbone]", weights])
    model = build_model(cfg, CPU)
    optimizer = build_optimizer(cfg, model)
    given = {id(p) for group in optimizer.param_groups for p in group["params"]}
    named = dict(model.named_parameters())
    assert given == {id(p) for k, p in named.items() if not k.startswith("backbone.")}
    assert not any(p.requires_grad for p in model.backbone.parameters())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.backbone.modules())
    assert OmegaConf.to_container(cfg.train.freeze) == ["backbone"]


def test_freezing_random_weights_is_refused():
    for profile in ("paper", "tiny"):
        overrides = ["train.freeze=[backbone]", "train.init_checkpoint=''"]
        with pytest.raises(ConfigError, match=r"random weights.*train\.init_from"):
            get_config("table2a/r50_fpn", profile, overrides)
    get_config(
        "table2a/r50_fpn", "tiny", ["train.freeze=[backbone]", "train.init_from=rpn/r50_fpn"]
    )
