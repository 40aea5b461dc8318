"""Narrow models and small inputs for the model tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig

import mask_rcnn_repro.modeling  # noqa: F401

MODELS = Path(__file__).resolve().parents[2] / "configs" / "common" / "models"
KINDS = ("c4", "c5", "fpn")
NUM_CLASSES = 3


def model_config(kind: str) -> DictConfig:
    """The `model` of configs/common/models/mask_rcnn_<kind>.py as it stands."""
    cfg = LazyConfig.load(str(MODELS / f"mask_rcnn_{kind}.py"))
    assert isinstance(cfg, DictConfig)
    return cfg.model


def resnet_of(model: DictConfig) -> DictConfig:
    return model.backbone.bottom_up if "bottom_up" in model.backbone else model.backbone


def narrow_config(kind: str, norm: str = "GN", depth: int = 50) -> DictConfig:
    """The same model at 1/8 of the width, for images of about 100 pixels."""
    model = model_config(kind)
    resnet = resnet_of(model)
    resnet.depth = depth
    resnet.width_multiplier = 0.125
    resnet.norm = norm
    resnet.freeze_at = 0
    sizes = [8, 16, 32, 48, 64]
    model.proposal_generator.anchor_generator.sizes = (
        [[s] for s in sizes] if kind == "fpn" else [sizes]
    )
    model.proposal_generator.pre_nms_topk = [200, 100]
    model.proposal_generator.post_nms_topk = [50, 20]
    model.roi_heads.num_classes = NUM_CLASSES
    model.roi_heads.batch_size_per_image = 16
    model.roi_heads.mask_head.conv_dim = 16
    model.roi_heads.box_predictor.test_score_thresh = 0.0
    if kind != "c4":
        model.roi_heads.box_head.fc_dim = 32
    if kind == "fpn":
        model.backbone.out_channels = 16
        model.roi_heads.box_pooler.canonical_box_size = 32
    return model


def build(model: DictConfig, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return instantiate(model)


def make_instances(size: tuple[int, int], boxes: list[list[float]]) -> Instances:
    """Ground truth with rectangular masks; no boxes give an image without objects."""
    height, width = size
    masks = torch.zeros(len(boxes), height, width, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[int(y1) : int(y2), int(x1) : int(x2)] = True
    instances = Instances(size)
    instances.gt_boxes = Boxes(torch.tensor(boxes).reshape(-1, 4))
    instances.gt_classes = torch.arange(len(boxes)) % NUM_CLASSES
    if boxes:
        instances.gt_masks = BitMasks(masks)
    return instances


def make_inputs(empty: tuple[int, ...] = ()) -> list[dict[str, Any]]:
    """Two images of different sizes with two objects each; none in those numbered in `empty`."""
    generator = torch.Generator().manual_seed(7)
    inputs = []
    for index, size in enumerate([(96, 128), (112, 96)]):
        boxes = [] if index in empty else [[8.0, 10.0, 60.0, 70.0], [40.0, 20.0, 90.0, 84.0]]
        image = torch.randint(0, 256, (3, *size), generator=generator).float()
        inputs.append({"image": image, "instances": make_instances(size, boxes)})
    return inputs


def make_proposals(size: tuple[int, int], boxes: list[list[float]]) -> Instances:
    proposals = Instances(size)
    proposals.proposal_boxes = Boxes(torch.tensor(boxes).reshape(-1, 4))
    proposals.objectness_logits = torch.linspace(1, -1, len(boxes))
    return proposals


def train_step(model: torch.nn.Module, inputs: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """One forward and backward; returns the losses."""
    model.train()
    model.zero_grad()
    with EventStorage(0):
        losses = model(inputs)
    sum(losses.values()).backward()
    return losses


@torch.no_grad()
def infer(
    model: torch.nn.Module, inputs: list[dict[str, Any]], postprocess: bool = False
) -> list[Any]:
    model.eval()
    return model.inference(inputs, do_postprocess=postprocess)
