"""Backbones of any width with Detectron2's state-dict keys: ResNet, ResNeXt, FPN, non-local."""

from mask_rcnn_repro.modeling.backbone.fpn import (
    build_fpn,
    build_mask_rcnn_repro_resnet_fpn_backbone,
)
from mask_rcnn_repro.modeling.backbone.non_local import (
    ChannelAffine,
    NonLocalBlock,
    insert_non_local,
)
from mask_rcnn_repro.modeling.backbone.norm import NORMS, build_norm, group_count, resolve_norm
from mask_rcnn_repro.modeling.backbone.resnet import (
    BLOCKS_PER_STAGE,
    ResNetWidths,
    build_mask_rcnn_repro_resnet_backbone,
    build_res5,
    build_resnet,
    res5_shape,
    resnet_channels,
    resnet_width_arguments,
    resnet_widths,
)

__all__ = [
    "BLOCKS_PER_STAGE",
    "NORMS",
    "ChannelAffine",
    "NonLocalBlock",
    "ResNetWidths",
    "build_fpn",
    "build_mask_rcnn_repro_resnet_backbone",
    "build_mask_rcnn_repro_resnet_fpn_backbone",
    "build_norm",
    "build_res5",
    "build_resnet",
    "group_count",
    "insert_non_local",
    "res5_shape",
    "resnet_channels",
    "resnet_width_arguments",
    "resnet_widths",
    "resolve_norm",
]
