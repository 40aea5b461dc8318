"""Positive RoIs whose mask targets are known, for the tests of mask heads and losses."""

from __future__ import annotations

import torch
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from mask_rcnn_repro.modeling import (
    ClassAgnosticMaskLoss,
    MaskLoss,
    MultinomialMaskLoss,
    PerClassSigmoidMaskLoss,
)

LOSSES = [PerClassSigmoidMaskLoss, MultinomialMaskLoss, ClassAgnosticMaskLoss]


def rois(masks: torch.Tensor, classes: list[int]) -> Instances:
    """RoIs over an image as large as their M x M masks, so that the targets are these masks."""
    count, side, _ = masks.shape
    assert count == len(classes)
    instances = Instances((side, side))
    boxes = torch.tensor([[0.0, 0.0, side, side]] * count)
    instances.proposal_boxes = Boxes(boxes.view(-1, 4))
    instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
    instances.gt_masks = BitMasks(masks)
    return instances


def positives(classes: list[int], side: int = 4) -> Instances:
    """The like, with objects that fill the left half."""
    masks = torch.zeros(len(classes), side, side, dtype=torch.bool)
    masks[:, :, : side // 2] = True
    return rois(masks, classes)


def without_masks() -> Instances:
    """An image without objects: its ground truth has no masks at all."""
    instances = Instances((8, 8))
    instances.proposal_boxes = Boxes(torch.zeros(0, 4))
    instances.gt_classes = torch.zeros(0, dtype=torch.int64)
    return instances


def detections(*classes: list[int]) -> list[Instances]:
    """One image for each list of predicted classes."""
    result = []
    for image in classes:
        instances = Instances((16, 16))
        instances.pred_classes = torch.tensor(image, dtype=torch.int64)
        result.append(instances)
    return result


def compute(
    loss: MaskLoss, logits: torch.Tensor, instances: list[Instances]
) -> tuple[torch.Tensor, dict[str, float]]:
    """The loss, and the scalars that it logs."""
    with EventStorage(0) as storage:
        value = loss.loss(logits, instances)
        return value, {name: scalar for name, (scalar, _) in storage.latest().items()}


def constant(*outputs: float, side: int = 4) -> torch.Tensor:
    """(1, O, side, side) logits that are the same for all pixels."""
    return torch.tensor(outputs).view(1, -1, 1, 1).repeat(1, 1, side, side)
