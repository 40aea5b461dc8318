"""Boxes as tensors: clipped, decoded, suppressed, put on their pyramid level.

Detectron2's formulas without its `Boxes`, whose checks ask for values that an exporter does not
know. Shapes: R boxes, XYXY in pixels of the network's input; K classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torchvision.ops import nms

from mask_rcnn_tools.export.sizes import first


def clip(boxes: torch.Tensor, height: Any, width: Any) -> torch.Tensor:
    """Boxes (R, 4) limited to an image."""
    x1, y1, x2, y2 = boxes.unbind(1)
    return torch.stack(
        [
            x1.clamp(min=0, max=width),
            y1.clamp(min=0, max=height),
            x2.clamp(min=0, max=width),
            y2.clamp(min=0, max=height),
        ],
        dim=1,
    )


def suppress_by_group(
    boxes: torch.Tensor, scores: torch.Tensor, groups: torch.Tensor, threshold: float, limit: int
) -> torch.Tensor:
    """Non-maximum suppression within each group at once, as torchvision's `batched_nms` does it.

    Groups are moved apart by more than any box is wide; with no box at all nothing is kept.

    Args:
        boxes: (R, 4), not negative.
        scores: (R,).
        groups: (R,) integers; boxes of different groups do not suppress each other.
        threshold: Of the intersection over union.
        limit: How many to keep at most; negative: all.

    Returns:
        Rows that stay, by falling score.
    """
    zero = boxes.new_zeros(1)
    apart = torch.cat([boxes.flatten(), zero]).max() + 1
    moved = boxes + (groups.to(boxes.dtype) * apart)[:, None]
    return first(nms(moved, scores, threshold), limit)


def pool(pooler: nn.Module, maps: list[torch.Tensor], boxes: torch.Tensor) -> torch.Tensor:
    """What a RoI pooler gives for the boxes of one image.

    Args:
        pooler: Detectron2's `ROIPooler` or one derived from it.
        maps: (1, C, H, W) of each of its scales.
        boxes: (R, 4).

    Returns:
        (R, C, S, S).
    """
    rois = torch.cat([boxes.new_zeros(boxes.shape[0], 1), boxes], dim=1)
    layers = list(pooler.level_poolers)
    if len(layers) == 1:
        return layers[0](maps[0], rois)
    levels = _levels(pooler, boxes)
    pooled = maps[0].new_zeros(boxes.shape[0], maps[0].shape[1], *pooler.output_size)
    for number, (layer, features) in enumerate(zip(layers, maps, strict=True)):
        rows = (levels == number).nonzero()[:, 0]
        pooled = pooled.index_put((rows,), layer(features, rois[rows]))
    return pooled


def _levels(pooler: Any, boxes: torch.Tensor) -> torch.Tensor:
    """The pyramid level of each box, from 0 (equation 1 of the FPN paper)."""
    sides = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    levels = pooler.canonical_level + torch.log2(sides / pooler.canonical_box_size + 1e-8)
    # a limit before the floor is the limit after it, and NaN and -inf never become integers
    levels = levels.clamp(min=pooler.min_level, max=pooler.max_level).floor()
    return levels.to(torch.int64) - pooler.min_level
