"""Random weights that let a network detect about as much as a trained one."""

from __future__ import annotations

import torch
from torch import nn

_SCALES = {  # many classes with few certain objects
    "box_predictor.cls_score.weight": 0.012,
    "rpn_head.anchor_deltas.weight": 0.01,
    "rpn_head.objectness_logits.weight": 0.05,
    "mask_head.predictor.weight": 0.1,
}


def damp(model: nn.Module) -> None:
    """Changes an R-CNN's first weights in place: residual branches add little, heads say little."""
    generator = torch.Generator().manual_seed(0)
    state = model.state_dict()
    deep = any(name.endswith("conv3.norm.weight") for name in state)
    last_norm = "conv3.norm.weight" if deep else "conv2.norm.weight"
    with torch.no_grad():
        for name, tensor in state.items():
            if name.endswith(last_norm):
                tensor.fill_(0.2)
            for ending, scale in _SCALES.items():
                if name.endswith(ending):
                    tensor.normal_(0, scale, generator=generator)
