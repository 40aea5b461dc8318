"""Keypoint branch (section 5): eight 3x3 convolutions, deconvolution, bilinear upscaling."""

from __future__ import annotations

import torch
from detectron2.modeling.roi_heads import KRCNNConvDeconvUpsampleHead
from detectron2.modeling.roi_heads.keypoint_head import ROI_KEYPOINT_HEAD_REGISTRY


@ROI_KEYPOINT_HEAD_REGISTRY.register()
class KeypointHead(KRCNNConvDeconvUpsampleHead):
    """Detectron2's head; its heatmaps are float32 under mixed precision too."""

    def layers(self, x: torch.Tensor) -> torch.Tensor:
        """Maps RoI features (R, C, S, S) to heatmap logits (R, keypoints, 4 S, 4 S), float32."""
        logits: torch.Tensor = super().layers(x)
        return logits.float()
