"""Box branch: fully connected layers (figure 4, right), class scores and box deltas."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import (
    ROI_BOX_HEAD_REGISTRY,
    FastRCNNConvFCHead,
    FastRCNNOutputLayers,
)


@ROI_BOX_HEAD_REGISTRY.register()
class FCBoxHead(FastRCNNConvFCHead):
    """``num_fc`` layers of ``fc_dim`` units, each with ReLU: (R, C, S, S) -> (R, fc_dim).

    Detectron2's head with one width for all layers. A config states it once, and the predictor
    can refer to it. R may be 0.

    Args:
        input_shape: Channels, height and width of the pooled RoI.
        num_fc: Number of layers; at least 1.
        fc_dim: Units of each layer.
    """

    @configurable
    def __init__(self, input_shape: ShapeSpec, *, num_fc: int = 2, fc_dim: int = 1024) -> None:
        super().__init__(input_shape, conv_dims=[], fc_dims=[fc_dim] * num_fc)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Arguments from ``MODEL.ROI_BOX_HEAD``'s ``NUM_FC`` and ``FC_DIM``."""
        head = cfg.MODEL.ROI_BOX_HEAD
        return {"input_shape": input_shape, "num_fc": head.NUM_FC, "fc_dim": head.FC_DIM}


class BoxPredictor(FastRCNNOutputLayers):
    """Class scores and class-specific box deltas (Fast R-CNN), float32 in mixed precision too.

    bfloat16 has 8 significant bits. Many scores would be equal, and softmax and cross-entropy over
    81 classes would be coarse.
    """

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Predicts for R RoIs and K classes.

        Args:
            x: (R, D) or (R, C, h, w); R may be 0.

        Returns:
            Class logits (R, K + 1), background last, and deltas (R, 4 K), float32.
        """
        scores, deltas = super().forward(x)
        return scores.float(), deltas.float()
