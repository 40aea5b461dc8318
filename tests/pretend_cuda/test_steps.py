"""Kernels and waits of a training step with the paper's settings, and that its numbers are equal.

Neither depends on the width of the model or on the size of the images, which are small here.
`steps.json` contains the counts. After a change on purpose:
`python -m pytest tests/pretend_cuda --write-waits`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from pathlib import Path
from typing import Any

import gpu_check_parts
import pytest
import torch
import training_step
from detectron2.engine import SimpleTrainer
from detectron2.utils.events import EventStorage

from mask_rcnn_repro import get_config
from mask_rcnn_repro.engine.builders import build_model, build_optimizer
from mask_rcnn_repro.engine.evaluate import faster_copy
from mask_rcnn_repro.engine.seeding import seed_everything
from mask_rcnn_repro.engine.train.trainer import Trainer
from mask_rcnn_repro.evaluation.loop import predict_small
from mask_rcnn_repro.registration import register

from .pretend import Waits, pretended_cuda

TABLE = Path(__file__).with_name("steps.json")
MOST = {"kernels": 1300, "waits": 40}
"""Detectron2's step has 1,628 and 93 by the same count."""

NARROW = (
    *("backbone.bottom_up.width_multiplier=0.125", "backbone.out_channels=16"),
    *("roi_heads.box_head.fc_dim=16", "roi_heads.mask_head.conv_dim=16"),
)
STEPS = {
    "table2a/r50_fpn, joint": ("table2a/r50_fpn", "train.proposals=null"),
    "table2a/r50_fpn, stored proposals": ("table2a/r50_fpn",),
    "rpn/r50_fpn": ("rpn/r50_fpn",),
}


def images(proposals: bool) -> list[dict[str, Any]]:
    """Two images as the loader pins them."""
    made = gpu_check_parts.batch(192, 320, people=False)
    for item in made:
        if torch.cuda.is_available():
            item["image"] = item["image"].pin_memory()
        if proposals:
            item["proposals"] = gpu_check_parts.Instances((192, 320))
            corners = torch.rand(600, 2) * torch.tensor([200.0, 100.0])
            sides = 10 + torch.rand(600, 2) * 80
            boxes = torch.cat([corners, corners + sides], 1)
            item["proposals"].proposal_boxes = gpu_check_parts.Boxes(boxes)
            item["proposals"].objectness_logits = torch.rand(600)
    return made


def trainer_of(config: str, *overrides: str, device: str) -> Trainer:
    register()
    narrow = [f"model.{key}" for key in NARROW if "roi" not in key or "rpn/" not in config]
    cfg = get_config(config, overrides=["optimizer.lr=0.0001", *narrow, *overrides])
    torch.manual_seed(0)
    model = build_model(cfg, where := torch.device(device)).train()
    torch.manual_seed(0)
    data = images(proposals=cfg.model.get("proposal_generator") is None)
    batches = itertools.repeat(data)
    return Trainer(model, batches, build_optimizer(cfg, model), seed=0, device=where)


@pytest.mark.parametrize("name", STEPS)
def test_kernels_and_waits_of_a_step(name, waits, request):
    trainer = trainer_of(*STEPS[name], device="cuda")
    with EventStorage(1) as trainer.storage:
        for trainer.iter in (1, 2):  # the first one fills what is kept
            waits.clear()
            waits.kernels.clear()
            trainer.run_step()
    counted = check_counts(name, waits, request)
    assert all(counted[key] <= most for key, most in MOST.items())


def check_counts(name: str, waits: Waits, request: pytest.FixtureRequest) -> dict[str, int]:
    counted = {"kernels": waits.kernels.total(), "waits": waits.total()}
    table = json.loads(TABLE.read_text()) if TABLE.exists() else {}
    if request.config.getoption("--write-waits", default=False):
        TABLE.write_text(json.dumps(table | {name: counted}, indent=1) + "\n")
    else:
        assert counted == table[name]
    return counted


@pytest.mark.parametrize("row", ["table2a/r50_fpn", "table2a/r50_c4"])
def test_optimized_inference_has_fewer_kernels(row, waits, request):
    narrow = NARROW if "fpn" in row else ("backbone.width_multiplier=0.125",)
    overrides = ["train.proposals=null", *(f"model.{key}" for key in narrow)]
    register()
    cfg = get_config(row, overrides=overrides)
    torch.manual_seed(0)
    model = build_model(cfg, torch.device("cuda", 0)).eval()
    image, found = images(proposals=False)[:1], []
    for name, net in (("inference", model), ("optimize_inference", faster_copy(cfg, model))):
        waits.clear()
        waits.kernels.clear()
        with torch.no_grad():
            predict_small(net, image)
        found.append(check_counts(f"{row}, {name}", waits, request))
    assert found[1]["kernels"] < found[0]["kernels"] and found[1]["waits"] <= found[0]["waits"]


@pytest.mark.parametrize("name", STEPS)
def test_a_step_has_the_numbers_of_a_cpu(name):
    """Losses, logged values and weights; Detectron2's own parts run on the CPU."""
    found = []
    for device in ("cpu", "cuda"):
        with pretended_cuda() if device == "cuda" else contextlib.nullcontext():
            trainer = trainer_of(*STEPS[name], device=device)
            with EventStorage(1) as trainer.storage:
                trainer.iter = 1
                trainer.run_step()
            latest = trainer.storage.latest().items()
            values = {key: value for key, (value, _) in latest if "time" not in key}
            weights = {key: p.detach() for key, p in trainer.model.named_parameters()}
        found.append((values, {key: torch.Tensor(p.tolist()) for key, p in weights.items()}))
    (values, weights), (others, changed) = found
    assert values.keys() == others.keys()
    assert others == pytest.approx(values, rel=1e-5)
    for key, weight in weights.items():
        torch.testing.assert_close(changed[key], weight, msg=key)


def test_detectron2s_step_has_more_of_both(waits):
    register()
    torch.manual_seed(0)
    model, optimizer = training_step.detectron2_model(torch.device("cuda", 0), 64)
    trainer = SimpleTrainer(model, itertools.repeat(images(proposals=False)), optimizer)
    with EventStorage(1) as trainer.storage:
        trainer.iter = 1
        seed_everything(0, 1, 0)
        trainer.run_step()
    assert waits.kernels.total() > 1600 and waits.total() > 90
