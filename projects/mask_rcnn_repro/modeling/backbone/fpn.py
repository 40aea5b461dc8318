"""Feature pyramid on a ResNet (Lin et al. 2017), with norms that fit any width."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool

from mask_rcnn_repro.modeling.backbone.norm import resolve_norm
from mask_rcnn_repro.modeling.backbone.resnet import build_mask_rcnn_repro_resnet_backbone


def build_fpn(
    bottom_up: Backbone,
    *,
    in_features: Sequence[str],
    out_channels: int = 256,
    norm: str = "",
    fuse_type: str = "sum",
) -> FPN:
    """Builds levels ``p2`` to ``p5`` (of ``res2`` to ``res5``) and ``p6``, which only the RPN uses.

    Args:
        bottom_up: Backbone.
        in_features: Features of the backbone to use, from fine to coarse.
        out_channels: Channels of every level.
        norm: Norm after each convolution; the paper's FPN has none.
        fuse_type: ``"sum"``, or ``"avg"`` for the mean of lateral and top-down features.

    Returns:
        Detectron2's module; maps (N, 3, H, W) to {level: (N, out_channels, H / s, W / s)}. Images
        must be padded to multiples of the coarsest stride.

    Raises:
        ConfigError: For an unknown norm.
    """
    return FPN(
        bottom_up=bottom_up,
        in_features=list(in_features),
        out_channels=out_channels,
        norm=resolve_norm(norm),
        top_block=LastLevelMaxPool(),
        fuse_type=fuse_type,
    )


@BACKBONE_REGISTRY.register()
def build_mask_rcnn_repro_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """:func:`build_fpn` from Detectron2's yacs keys ``MODEL.FPN`` and ``MODEL.RESNETS``."""
    return build_fpn(
        build_mask_rcnn_repro_resnet_backbone(cfg, input_shape),
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
