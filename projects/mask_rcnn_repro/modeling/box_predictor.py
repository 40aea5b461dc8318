"""The box branch's outputs and losses (Fast R-CNN): class scores and class-specific box deltas."""

from __future__ import annotations

import torch
from detectron2.modeling.roi_heads import FastRCNNOutputLayers


class BoxPredictor(FastRCNNOutputLayers):
    """Detectron2's output layers; scores and deltas are float32 under mixed precision too.

    bfloat16 has 8 significant bits: scores would tie in masses, softmax and cross-entropy over 81
    classes would be coarse.
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
