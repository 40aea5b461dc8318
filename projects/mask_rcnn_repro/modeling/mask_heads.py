"""Mask heads (figure 4): from RoI features to mask logits, with an exchangeable loss.

Shapes: R RoIs of all images together, C channels and S side of the RoI features, K classes, O
outputs per pixel (given by the loss), M mask side.
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
from fvcore.nn.weight_init import c2_msra_fill
from torch import nn

from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.modeling.backbone.norm import resolve_norm
from mask_rcnn_repro.modeling.box_head import FCBoxHead
from mask_rcnn_repro.modeling.mask_losses import ClassAgnosticMaskLoss, MaskLoss, build_mask_loss


class MaskHead(BaseMaskRCNNHead):
    """Base class of mask heads, with an exchangeable loss. Subclasses define :meth:`layers`.

    Logits are converted to float32 before losses and probabilities, in mixed precision too.

    Args:
        loss: Trains and reads the logits; or its name in `MASK_LOSS_REGISTRY`.
        args: Passed to the next class.
        kwargs: Passed to the next class, such as ``loss_weight`` and ``vis_period``.
    """

    def __init__(self, *args: Any, loss: MaskLoss | str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.loss = build_mask_loss(loss)

    def forward(
        self, x: torch.Tensor, instances: list[Instances]
    ) -> dict[str, torch.Tensor] | list[Instances]:
        """Computes the loss of the given instances, or adds masks to them.

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
        return add_masks(instances, self.loss.probabilities(logits, classes))


def add_masks(instances: list[Instances], probabilities: torch.Tensor) -> list[Instances]:
    """Adds ``pred_masks`` to detections: their share of probabilities (R, 1, M, M), in order."""
    parts = probabilities.split([len(i) for i in instances])
    for image, masks in zip(instances, parts, strict=True):
        image.pred_masks = masks
    return instances


@ROI_MASK_HEAD_REGISTRY.register()
class FCNMaskHead(MaskHead, MaskRCNNConvUpsampleHead):
    """Fully convolutional head: 3x3 convolutions, 2x2 deconvolution with stride 2, 1x1 convolution.

    Hidden layers use ReLU. On FPN there are four 3x3 convolutions: 14x14 -> 28x28. On C4 there are
    none, since the res5 head comes first: 7x7 -> 14x14. State-dict keys are Detectron2's.

    Args:
        input_shape: Channels of the RoI features.
        num_classes: K.
        loss: Trains and reads the logits; sets O. Or its name in `MASK_LOSS_REGISTRY`.
        num_conv: 3x3 convolutions before the deconvolution.
        conv_dim: Channels of the convolutions and the deconvolution.
        conv_norm: Norm of the 3x3 convolutions; the paper has none.
        predictor_init: First weights of the last layer. ``"normal"`` draws them with deviation
            0.001, as Detectron2. ``"msra"`` is Detectron's: MSRA's initialization for several
            outputs, and ``"normal"`` for a single one, where MSRA's deviation of 1.4 can diverge.
        loss_weight: Factor of the loss.
        vis_period: See :meth:`MaskLoss.loss`.

    Raises:
        ConfigError: For an unknown norm or initialization.
    """

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        num_classes: int,
        loss: MaskLoss | str,
        num_conv: int = 4,
        conv_dim: int = 256,
        conv_norm: str = "",
        predictor_init: str = "normal",
        loss_weight: float = 1.0,
        vis_period: int = 0,
    ) -> None:
        if predictor_init not in ("normal", "msra"):
            raise ConfigError(
                f"FCNMaskHead's predictor_init must be 'normal' or 'msra', got {predictor_init!r}"
            )
        loss = build_mask_loss(loss)
        super().__init__(
            input_shape,
            loss=loss,
            num_classes=loss.num_outputs(num_classes),
            conv_dims=[conv_dim] * (num_conv + 1),  # the last is the deconvolution's
            conv_norm=resolve_norm(conv_norm),
            loss_weight=loss_weight,
            vis_period=vis_period,
        )
        if predictor_init == "msra" and self.predictor.out_channels > 1:
            c2_msra_fill(self.predictor)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Arguments from ``MODEL.ROI_MASK_HEAD``, including this project's key ``LOSS``."""
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
    """Fully connected head (table 2e): ``num_fc`` layers with ReLU, then a linear layer to O M^2.

    The paper's `fc 1024-1024-80*28^2` has ``num_fc=2``, `fc 1024-1024-1024-80*28^2` has 3.

    Args:
        input_shape: Channels, height and width of the RoI features.
        num_classes: K.
        loss: Trains and reads the logits; sets O. Or its name in `MASK_LOSS_REGISTRY`.
        num_fc: Number of hidden layers; at least 1.
        fc_dim: Units of each hidden layer.
        output_size: M.
        loss_weight: Factor of the loss.
        vis_period: See :meth:`MaskLoss.loss`.

    Raises:
        ConfigError: For features of unknown height or width, and for numbers below 1.
    """

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        num_classes: int,
        loss: MaskLoss | str,
        num_fc: int = 2,
        fc_dim: int = 1024,
        output_size: int = 28,
        loss_weight: float = 1.0,
        vis_period: int = 0,
    ) -> None:
        loss = build_mask_loss(loss)
        super().__init__(loss=loss, loss_weight=loss_weight, vis_period=vis_period)
        if input_shape.height is None or input_shape.width is None:
            raise ConfigError(
                f"MLPMaskHead needs the size of the RoI features; got input_shape={input_shape}. "
                "Set its height and width to the mask pooler's output_size."
            )
        sizes = {"num_fc": num_fc, "fc_dim": fc_dim, "output_size": output_size}
        for name, value in sizes.items():
            if value < 1:
                raise ConfigError(f"MLPMaskHead's {name} must be at least 1, got {value}")
        self.fcs = FCBoxHead(input_shape, num_fc=num_fc, fc_dim=fc_dim)
        self.mask_shape = (loss.num_outputs(num_classes), output_size, output_size)
        self.predictor = nn.Linear(fc_dim, math.prod(self.mask_shape))
        # as in the predictor of Detectron2's convolutional head
        nn.init.normal_(self.predictor.weight, std=0.001)
        nn.init.zeros_(self.predictor.bias)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Arguments from ``MODEL.ROI_MASK_HEAD``; all keys but ``NAME`` are this project's."""
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
        """Maps (R, C, S, S) RoI features to (R, O, M, M) logits; R may be 0."""
        logits: torch.Tensor = self.predictor(self.fcs(x))
        return logits.unflatten(1, self.mask_shape)


def _loss_by_name(head: CfgNode) -> MaskLoss:
    """Builds the loss of ``MODEL.ROI_MASK_HEAD``; Detectron2's key must not contradict it."""
    loss = build_mask_loss(head.LOSS)
    if head.CLS_AGNOSTIC_MASK and not isinstance(loss, ClassAgnosticMaskLoss):
        raise ConfigError(
            f"MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK is True, but MODEL.ROI_MASK_HEAD.LOSS is"
            f" {head.LOSS!r}, which is not class-agnostic. Set LOSS to 'ClassAgnosticMaskLoss', or"
            " CLS_AGNOSTIC_MASK to False."
        )
    return loss
