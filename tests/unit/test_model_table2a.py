"""Rows of table 2a build the printed networks and change nothing else against their control."""

from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from omegaconf import OmegaConf

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def load(config_id):
    return LazyConfig.load(str(CONFIGS / f"{config_id}.py"))


def flat(node, prefix=""):
    if not isinstance(node, dict):
        return {prefix[:-1]: node}
    return {k: v for key in node for k, v in flat(node[key], f"{prefix}{key}.").items()}


def changed(row):
    """Keys whose stated (not interpolated) values differ between the row and its control."""
    cfg = load(row)
    ours, control = (
        flat(OmegaConf.to_container(c, resolve=False)) for c in (cfg, load(cfg.paper.control))
    )
    keys = {k for k in ours.keys() | control if not k.startswith("paper.")}
    return {k for k in keys if ours.get(k) != control.get(k)}


def meta_model(row):
    with torch.device("meta"):
        return instantiate(load(row).model)


def stage_lengths(resnet):
    return [len(stage) for stage in resnet.stages]


@pytest.mark.parametrize(
    ("row", "keys"),
    [
        ("r101_c4", {"model.backbone.depth"}),
        ("r101_fpn", {"model.backbone.bottom_up.depth"}),
        (
            "x101_fpn",
            {
                "model.backbone.bottom_up.num_groups",
                "model.backbone.bottom_up.width_per_group",
                "model.backbone.bottom_up.stride_in_1x1",
                "dataloader.train.total_batch_size",
                "optimizer.lr",
                "train.reference_batch_size",
            },
        ),
    ],
)
def test_a_row_changes_what_it_says(row, keys):
    assert changed(f"table2a/{row}") == keys | {"train.init_checkpoint", "train.proposals"}


def test_fpn_differs_from_c4_in_the_model_alone():
    """And in the RPN stage, which has the same backbone."""
    keys = changed("table2a/r50_fpn") - {"train.proposals"}
    assert all(key.startswith("model.") for key in keys)


@pytest.mark.parametrize(
    ("row", "lengths"),
    [("r50_c4", [3, 4, 6]), ("r101_c4", [3, 4, 23])],
)
def test_c4_networks(row, lengths):
    model = meta_model(f"table2a/{row}")
    assert stage_lengths(model.backbone) == lengths
    assert len(model.roi_heads.res5) == 3
    # Stem and stage 2 are frozen, as is every norm; the rest of the network trains.
    assert not any(p.requires_grad for p in model.backbone.res2.parameters())
    assert all(p.requires_grad for p in model.backbone.res3.parameters())
    assert all(p.requires_grad for p in model.roi_heads.parameters())


def test_resnext_is_64x4d():
    resnet = meta_model("table2a/x101_fpn").backbone.bottom_up
    assert stage_lengths(resnet) == [3, 4, 23, 3]
    conv = resnet.res2[0].conv2
    assert (conv.groups, conv.out_channels // conv.groups) == (64, 4)
    assert (resnet.res3[0].conv1.stride, resnet.res3[0].conv2.stride) == ((1, 1), (2, 2))


@pytest.mark.parametrize(
    ("row", "max_iter", "lr", "batch"),
    [("r50_c4", 160_000, 0.02, 16), ("r50_fpn", 160_000, 0.02, 16), ("x101_fpn", 160_000, 0.01, 8)],
)
def test_schedule_of_the_paper(row, max_iter, lr, batch):
    cfg = load(f"table2a/{row}")
    assert cfg.train.max_iter == cfg.lr_multiplier.max_iter == max_iter
    assert list(cfg.lr_multiplier.milestones) == [120_000]
    assert (cfg.optimizer.lr, cfg.optimizer.momentum, cfg.optimizer.weight_decay) == (lr, 0.9, 1e-4)
    assert cfg.dataloader.train.total_batch_size == cfg.train.reference_batch_size == batch
    assert cfg.dataloader.train.dataset.names == "coco_trainval35k"
    assert cfg.dataloader.test.dataset.names == "coco_minival"
