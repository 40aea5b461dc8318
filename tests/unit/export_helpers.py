"""Narrow models with random weights, and images, for the tests of exporting."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec

from mask_rcnn_repro.modeling import KeypointHead, RoIPooler

from .model_helpers import build, narrow_config


def detector(kind: str = "fpn", **changes: Any) -> torch.nn.Module:
    cfg = narrow_config(kind, depth=50 if kind == "c4" else 18)
    for key, value in changes.items():
        setattr(cfg.roi_heads, key, value)
    return build(cfg).eval()


def with_keypoints(kind: str = "fpn") -> torch.nn.Module:
    """With masks, too."""
    cfg = narrow_config(kind, depth=18)
    heads = cfg.roi_heads
    heads.keypoint_in_features = list(heads.mask_in_features)
    heads.keypoint_pooler = L(RoIPooler)(
        output_size=14, scales=list(heads.mask_pooler.scales), canonical_box_size=32
    )
    heads.keypoint_head = L(KeypointHead)(
        input_shape=L(ShapeSpec)(
            channels=heads.mask_head.input_shape.channels, height=14, width=14
        ),
        num_keypoints=3,
        num_conv=1,
        conv_dim=8,
    )
    return build(cfg).eval()


def image(height: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
