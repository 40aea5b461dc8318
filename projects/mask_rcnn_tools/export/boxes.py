"""Operations on boxes that exporters can trace: clipping, suppression, pooling by pyramid level.

They follow Detectron2's formulas without its `Boxes`, whose checks need values that are unknown
during export. The code runs eagerly, under `torch.jit.trace`, where a size is a scalar tensor, and
under `torch.export`, where it is a symbolic integer.

Shapes: R boxes, XYXY in pixels of the network's input; K classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torchvision.ops import nms


def clip(boxes: torch.Tensor, height: Any, width: Any) -> torch.Tensor:
    """Clips boxes (R, 4) to an image."""
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
    """Applies non-maximum suppression within each group, as torchvision's `batched_nms` does.

    Args:
        boxes: (R, 4), not negative. R may be 0.
        scores: (R,).
        groups: (R,) integers. Boxes of different groups do not suppress each other.
        threshold: IoU threshold.
        limit: Maximum number of kept boxes; negative: no limit.

    Returns:
        Indices of kept boxes in descending order of score.
    """
    zero = boxes.new_zeros(1)
    apart = torch.cat([boxes.flatten(), zero]).max() + 1
    moved = boxes + (groups.to(boxes.dtype) * apart)[:, None]
    return first(nms(moved, scores, threshold), limit)


def pool(pooler: nn.Module, maps: list[torch.Tensor], boxes: torch.Tensor) -> torch.Tensor:
    """Applies a RoI pooler to the boxes of one image.

    Args:
        pooler: Detectron2's `ROIPooler` or a subclass.
        maps: (1, C, H, W) feature maps, one per scale.
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
    """Returns the pyramid level of each box, from 0 (equation 1 of the FPN paper)."""
    sides = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    levels = pooler.canonical_level + torch.log2(sides / pooler.canonical_box_size + 1e-8)
    # clamps before the floor, so NaN and -inf never become integers
    levels = levels.clamp(min=pooler.min_level, max=pooler.max_level).floor()
    return levels.to(torch.int64) - pooler.min_level


def at_most(size: Any, limit: int) -> Any:
    """Returns the minimum of a size (int, tensor or symbolic) and a number."""
    if isinstance(size, torch.Tensor):
        return size.clamp(max=limit)
    return torch.sym_min(size, limit)


def first(tensor: torch.Tensor, limit: int) -> torch.Tensor:
    """Returns the first `limit` rows, or all rows if the limit is negative."""
    return tensor if limit < 0 else tensor[:limit]
