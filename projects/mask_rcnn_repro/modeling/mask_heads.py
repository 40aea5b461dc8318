"""Mask heads (figure 4): from RoI features to mask logits, with an exchangeable loss.

Shapes: R RoIs of all images together, C channels and S side of the RoI features, O outputs a pixel
(K for K classes, or as the loss says), M mask side.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import ROI_MASK_HEAD_REGISTRY
from detectron2.modeling.roi_heads.mask_head import BaseMaskRCNNHead, MaskRCNNConvUpsampleHead
from detectron2.structures import Instances
from torch import nn

from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.modeling.backbone.norm import resolve_norm
from mask_rcnn_repro.modeling.box_head import FCBoxHead
from mask_rcnn_repro.modeling.mask_losses import (
    ClassAgnosticMaskLoss,
    MaskLoss,
    build_mask_loss,
)


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
            "loss": _loss_by_name(head),
            "num_conv": head.NUM_CONV,
            "conv_dim": head.CONV_DIM,
            "conv_norm": head.NORM,
            "vis_period": cfg.VIS_PERIOD,
        }


@ROI_MASK_HEAD_REGISTRY.register()
class MLPMaskHead(MaskHead):
    """Table 2e's fully connected head: ``num_fc`` layers with ReLU, then a linear one to O M^2.

    (R, C, S, S) features are flattened, so position in the RoI is learned anew at every place. The
    paper's `fc 1024-1024-80*28^2` has ``num_fc=2``, `fc 1024-1024-1024-80*28^2` has 3.

    Args:
        input_shape: Channels, height and width of the RoI features.
        num_classes: K.
        loss: Trains and reads the logits; decides O.
        num_fc: Hidden layers; at least 1.
        fc_dim: Units of each.
        output_size: M.
        loss_weight: Factor of the loss.
        vis_period: See :meth:`MaskLoss.loss`.

    Raises:
        ConfigError: For features of unknown height or width, or no hidden layer.
    """

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        num_classes: int,
        loss: MaskLoss,
        num_fc: int = 2,
        fc_dim: int = 1024,
        output_size: int = 28,
        loss_weight: float = 1.0,
        vis_period: int = 0,
    ) -> None:
        super().__init__(loss=loss, loss_weight=loss_weight, vis_period=vis_period)
        if input_shape.height is None or input_shape.width is None:
            raise ConfigError(
                f"MLPMaskHead flattens the RoI features, so it needs their size; got {input_shape};"
                " give input_shape's height and width, the mask pooler's output_size"
            )
        sizes = {"num_fc": num_fc, "fc_dim": fc_dim, "output_size": output_size}
        for name, value in sizes.items():
            if value < 1:
                raise ConfigError(f"MLPMaskHead's {name} must be at least 1, got {value}")
        self.fcs = FCBoxHead(input_shape, num_fc=num_fc, fc_dim=fc_dim)
        self.mask_shape = (loss.num_outputs(num_classes), output_size, output_size)
        self.predictor = nn.Linear(fc_dim, math.prod(self.mask_shape))
        # As the predictor of Detectron2's convolutional head.
        nn.init.normal_(self.predictor.weight, std=0.001)
        nn.init.zeros_(self.predictor.bias)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Arguments from ``MODEL.ROI_MASK_HEAD``; all but ``NAME`` are keys of ours."""
        head = cfg.MODEL.ROI_MASK_HEAD
        return {
            "input_shape": input_shape,
            "num_classes": cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            "loss": _loss_by_name(head),
            "num_fc": head.NUM_FC,
            "fc_dim": head.FC_DIM,
            "output_size": head.OUTPUT_SIZE,
            "vis_period": cfg.VIS_PERIOD,
        }

    def layers(self, x: torch.Tensor) -> torch.Tensor:
        """(R, C, S, S) RoI features to (R, O, M, M) logits; R may be 0."""
        logits: torch.Tensor = self.predictor(self.fcs(x))
        return logits.unflatten(1, self.mask_shape)


def _loss_by_name(head: CfgNode) -> MaskLoss:
    """The loss of ``MODEL.ROI_MASK_HEAD``, which Detectron2's own key must not contradict."""
    loss = build_mask_loss(head.LOSS)
    if head.CLS_AGNOSTIC_MASK and not isinstance(loss, ClassAgnosticMaskLoss):
        raise ConfigError(
            f"MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK is True, but MODEL.ROI_MASK_HEAD.LOSS is"
            f" {head.LOSS!r}, which decides the outputs here; set LOSS to 'ClassAgnosticMaskLoss',"
            " or CLS_AGNOSTIC_MASK to False"
        )
    return loss
