"""Keypoint branch (section 5): eight 3x3 convolutions, deconvolution, bilinear upscaling.

Shapes: R RoIs of all images together, C channels and S side of the RoI features.
"""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling.roi_heads import KRCNNConvDeconvUpsampleHead
from detectron2.modeling.roi_heads.keypoint_head import ROI_KEYPOINT_HEAD_REGISTRY

from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.modeling.backbone.norm import build_norm


@ROI_KEYPOINT_HEAD_REGISTRY.register()
class KeypointHead(KRCNNConvDeconvUpsampleHead):
    """Detectron2's head with one width for all layers, and float32 heatmaps.

    Accepts channels-last features. State-dict keys are Detectron2's.

    Args:
        input_shape: Channels of the RoI features.
        num_keypoints: Keypoint types; COCO's persons have 17.
        num_conv: Number of 3x3 convolutions.
        conv_dim: Channels of each convolution.
        conv_norm: Norm of the 3x3 convolutions; the paper has none.
        loss_weight: Factor of the loss.
        loss_normalizer: ``"visible"`` averages over the visible keypoints of the batch. A number
            divides the sum by this number times the number of images.

    Raises:
        ConfigError: For an unknown norm, numbers below 1, or a normalizer that is neither
            ``"visible"`` nor a positive number.
    """

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        num_keypoints: int = 17,
        num_conv: int = 8,
        conv_dim: int = 512,
        conv_norm: str = "",
        loss_weight: float = 1.0,
        loss_normalizer: float | str = "visible",
    ) -> None:
        for name, value in {"num_keypoints": num_keypoints, "num_conv": num_conv}.items():
            if value < 1:
                raise ConfigError(f"KeypointHead's {name} must be at least 1, got {value}")
        if loss_normalizer != "visible":
            if isinstance(loss_normalizer, str) or not loss_normalizer > 0:
                raise ConfigError(
                    "KeypointHead's loss_normalizer must be 'visible' or a number above 0, got "
                    f"{loss_normalizer!r}"
                )
            loss_normalizer = float(loss_normalizer)
        super().__init__(
            input_shape,
            num_keypoints=num_keypoints,
            conv_dims=[conv_dim] * num_conv,
            loss_weight=loss_weight,
            loss_normalizer=loss_normalizer,
        )
        for layer in self.children():
            if isinstance(layer, Conv2d):
                layer.norm = build_norm(conv_norm, conv_dim)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Arguments from ``MODEL.ROI_KEYPOINT_HEAD``.

        Raises:
            ConfigError: If ``CONV_DIMS`` are not all equal.
        """
        arguments: dict[str, Any] = super().from_config(cfg, input_shape)
        widths = list(arguments.pop("conv_dims"))
        if len(set(widths)) != 1:
            raise ConfigError(
                f"MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS={widths} must be one or more equal numbers"
            )
        return {**arguments, "num_conv": len(widths), "conv_dim": widths[0]}

    def layers(self, x: torch.Tensor) -> torch.Tensor:
        """Predicts heatmaps.

        Args:
            x: (R, C, S, S); R may be 0.

        Returns:
            Logits (R, num_keypoints, 4 S, 4 S), float32 and contiguous, of a softmax over the
            positions of each map.
        """
        logits: torch.Tensor = super().layers(x)
        return logits.float().contiguous()  # Detectron2's loss views it
