"""Backbones of any width with Detectron2's state-dict keys: ResNet, ResNeXt, FPN, non-local."""

from mask_rcnn_repro.modeling.backbone.fpn import build_fpn
from mask_rcnn_repro.modeling.backbone.non_local import NonLocalBlock
from mask_rcnn_repro.modeling.backbone.norm import build_norm
from mask_rcnn_repro.modeling.backbone.resnet import (
    build_res5,
    build_resnet,
    res5_shape,
    resnet_channels,
)

__all__ = [
    "NonLocalBlock",
    "build_fpn",
    "build_norm",
    "build_res5",
    "build_resnet",
    "res5_shape",
    "resnet_channels",
]
