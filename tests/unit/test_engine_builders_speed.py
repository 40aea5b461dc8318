"""What a run does for speed without being asked, and that it changes no result."""

from __future__ import annotations

import pytest
import torch
from omegaconf import OmegaConf

from mask_rcnn_repro import get_config
from mask_rcnn_repro.engine.builders import build_model, build_optimizer


def config(**optimizer):
    target = optimizer.pop("_target_", "torch.optim.SGD")
    return OmegaConf.create(
        {
            "optimizer": {
                "_target_": target,
                "params": {"_target_": "detectron2.solver.get_default_optimizer_params"},
                "lr": 0.1,
                **optimizer,
            },
            "train": {"scale_lr": False},
        },
        flags={"allow_objects": True},
    )


def weights_after(optimizer, model):
    for seed in range(3):
        torch.manual_seed(seed)
        optimizer.zero_grad()
        model(torch.randn(5, 4)).square().sum().backward()
        optimizer.step()
    return [p.detach().clone() for p in model.parameters()]


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_fused_by_default_with_equal_steps(name):
    found = []
    for choice in ({}, {"fused": False, "foreach": False}):
        torch.manual_seed(7)
        model = torch.nn.Linear(4, 3)
        more = {"momentum": 0.9} if name == "SGD" else {}
        cfg = config(_target_=f"torch.optim.{name}", weight_decay=1e-2, **more, **choice)
        optimizer = build_optimizer(cfg, model)
        assert bool(optimizer.defaults["fused"]) == (not choice)
        assert ("fused" in cfg.optimizer) == bool(choice)  # the config is left as it is
        found.append(weights_after(optimizer, model))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("choice", [{"foreach": True}, {"differentiable": True}])
def test_a_choice_in_the_config_stands(choice):
    optimizer = build_optimizer(config(**choice), torch.nn.Linear(4, 3))
    assert not optimizer.defaults["fused"]


def test_optimizers_without_fused_step():
    cfg = config(_target_="torch.optim.RMSprop")
    assert "fused" not in build_optimizer(cfg, torch.nn.Linear(4, 3)).defaults


def test_models_on_the_cpu_are_channels_last():
    cfg = get_config("table2a/r50_fpn", profile="tiny")
    assert not cfg.train.channels_last
    model = build_model(cfg, torch.device("cpu"))
    weights = [p for p in model.parameters() if p.dim() == 4]
    assert weights
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)
