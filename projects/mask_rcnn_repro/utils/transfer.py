"""Transfers between CPU and GPU; those to a GPU are not waited for."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.structures import Boxes, Instances, Keypoints


def moved(value: Any, device: torch.device) -> Any:
    """Moves a tensor, or those of dicts, instances, boxes and keypoints; other values stay.

    Copies from memory that is not pinned would be waited for, and so would those of Detectron2's
    `to`. Polygons follow their boxes when they are chosen.
    """
    if isinstance(value, dict):
        return {key: moved(x, device) for key, x in value.items()}
    if isinstance(value, Instances):
        return Instances(value.image_size, **moved(value.get_fields(), device))
    if isinstance(value, Boxes | Keypoints):
        return type(value)(moved(value.tensor, device))
    if not isinstance(value, torch.Tensor):
        return value
    to_gpu = device.type == "cuda"
    if to_gpu and value.is_cpu:
        value = value.pin_memory()
    return value.to(device, non_blocking=to_gpu)
