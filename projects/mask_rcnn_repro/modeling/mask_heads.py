"""Mask heads (figure 4): from RoI features to mask logits, with an exchangeable loss.

Shapes: R RoIs of all images together, C channels and S side of the RoI features, O outputs a pixel
(K for K classes, or as the loss says), M mask side.
"""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import ROI_MASK_HEAD_REGISTRY
from detectron2.modeling.roi_heads.mask_head import BaseMaskRCNNHead, MaskRCNNConvUpsampleHead
from detectron2.structures import Instances

from mask_rcnn_repro.modeling.backbone.norm import resolve_norm
from mask_rcnn_repro.modeling.mask_losses import MaskLoss, build_mask_loss


class MaskHead(BaseMaskRCNNHead):
    """A mask head whose outputs mean what its loss says. Subclasses define :meth:`layers`.

    Logits are turned to float32 before losses and probabilities, under mixed precision too.

    Args:
        loss: Trains and reads the logits.
        args: Passed to the next class.
        kwargs: Passed to the next class; ``loss_weight`` and ``vis_period`` among them.
    """

    def __init__(self, *args: Any, loss: MaskLoss, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.loss = loss

    def forward(
        self, x: torch.Tensor, instances: list[Instances]
    ) -> dict[str, torch.Tensor] | list[Instances]:
        """Trains on, or adds masks to, the given instances.

        Args:
            x: (R, C, S, S) features of the instances' boxes, in order; R may be 0.
            instances: One per image. Training: positive RoIs, see :meth:`MaskLoss.loss`.
                Inference: detections with ``pred_classes``.

        Returns:
            Training: ``{"loss_mask": scalar}``. Inference: the instances, with ``pred_masks``
            (Ri, 1, M, M) added: probabilities of the predicted class inside ``pred_boxes``.
        """
        logits = self.layers(x).float()
        if self.training:
            loss = self.loss.loss(logits, instances, self.vis_period)
            return {"loss_mask": loss * self.loss_weight}
        classes = torch.cat([i.pred_classes for i in instances])
        probabilities = self.loss.probabilities(logits, classes)
        for image, masks in zip(
            instances, probabilities.split([len(i) for i in instances]), strict=True
        ):
            image.pred_masks = masks
        return instances


@ROI_MASK_HEAD_REGISTRY.register()
class FCNMaskHead(MaskHead, MaskRCNNConvUpsampleHead):
    """Fully convolutional head: 3x3 convolutions, 2x2 deconvolution with stride 2, 1x1 convolution.

    ReLU in hidden layers. On FPN four convolutions: 14x14 -> 28x28; on C4 none, since the res5 head
    precedes it: 7x7 -> 14x14 (figure 4). State-dict keys are Detectron2's.

    Args:
        input_shape: Channels of the RoI features.
        num_classes: K.
        loss: Trains and reads the logits; decides O.
        num_conv: 3x3 convolutions before the deconvolution.
        conv_dim: Channels of these and of the deconvolution.
        conv_norm: Norm of the 3x3 convolutions; the paper has none.
        loss_weight: Factor of the loss.
        vis_period: See :meth:`MaskLoss.loss`.

    Raises:
        ConfigError: For an unknown norm.
    """

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        num_classes: int,
        loss: MaskLoss,
        num_conv: int = 4,
        conv_dim: int = 256,
        conv_norm: str = "",
        loss_weight: float = 1.0,
        vis_period: int = 0,
    ) -> None:
        super().__init__(
            input_shape,
            loss=loss,
            num_classes=loss.num_outputs(num_classes),
            conv_dims=[conv_dim] * (num_conv + 1),  # the last is the deconvolution's
            conv_norm=resolve_norm(conv_norm),
            loss_weight=loss_weight,
            vis_period=vis_period,
        )

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Arguments from ``MODEL.ROI_MASK_HEAD``; its key ``LOSS`` is ours."""
        head = cfg.MODEL.ROI_MASK_HEAD
        return {
            "input_shape": input_shape,
            "num_classes": cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            "loss": build_mask_loss(head.LOSS),
            "num_conv": head.NUM_CONV,
            "conv_dim": head.CONV_DIM,
            "conv_norm": head.NORM,
            "vis_period": cfg.VIS_PERIOD,
        }
