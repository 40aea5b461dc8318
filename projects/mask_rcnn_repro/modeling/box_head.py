"""Box branch: fully connected layers (figure 4, right), class scores and box deltas."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import (
    ROI_BOX_HEAD_REGISTRY,
    FastRCNNConvFCHead,
    FastRCNNOutputLayers,
)
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage


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

    def losses(
        self, predictions: tuple[torch.Tensor, torch.Tensor], proposals: list[Instances]
    ) -> dict[str, torch.Tensor]:
        """Detectron2's losses. On a GPU what is logged is waited for once, not six times."""
        scores, deltas = predictions
        if not scores.is_cuda or not len(scores) or self.use_sigmoid_ce:
            losses: dict[str, torch.Tensor] = super().losses(predictions, proposals)
            return losses
        classes = torch.cat([p.gt_classes for p in proposals])
        boxes = torch.cat([p.proposal_boxes.tensor for p in proposals])
        # without objects all proposals are negative, and the boxes are not read
        truth = [(p.gt_boxes if p.has("gt_boxes") else p.proposal_boxes).tensor for p in proposals]
        box_loss = self.box_reg_loss(boxes, torch.cat(truth), deltas, classes)
        found, last = scores.argmax(dim=1), scores.shape[1] - 1
        positive, right = (classes >= 0) & (classes < last), found == classes
        sums = (positive, right, right & positive, positive & (found == last))
        positives, *counts = torch.stack([x.sum() for x in sums]).tolist()
        storage = get_event_storage()
        storage.put_scalar("fast_rcnn/cls_accuracy", counts[0] / len(scores))
        if positives > 0:
            storage.put_scalar("fast_rcnn/fg_cls_accuracy", counts[1] / positives)
            storage.put_scalar("fast_rcnn/false_negative", counts[2] / positives)
        losses = {"loss_cls": F.cross_entropy(scores, classes), "loss_box_reg": box_loss}
        return {name: loss * self.loss_weight.get(name, 1.0) for name, loss in losses.items()}
