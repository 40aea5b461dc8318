"""Model parts; importing this module puts them into Detectron2's registries and ours.

| file | what it is |
|---|---|
| backbone/ | ResNet, ResNeXt, FPN of any width; stage 5 as a RoI head |
| rpn_head.py | the RPN's head |
| poolers.py | RoI layers and the choice of the pyramid level |
| roi_heads/ | C4 (res5) and FPN/C5 heads |
| box_head.py, box_predictor.py | box branch |
| mask_heads.py, mask_losses.py | mask branch |
| keypoint_head.py | keypoint branch |
"""

from mask_rcnn_repro.modeling.backbone import (
    build_fpn,
    build_norm,
    build_res5,
    build_resnet,
    res5_shape,
    resnet_channels,
)
from mask_rcnn_repro.modeling.box_head import FCBoxHead
from mask_rcnn_repro.modeling.box_predictor import BoxPredictor
from mask_rcnn_repro.modeling.keypoint_head import KeypointHead
from mask_rcnn_repro.modeling.mask_heads import FCNMaskHead, MaskHead
from mask_rcnn_repro.modeling.mask_losses import (
    MASK_LOSS_REGISTRY,
    MaskLoss,
    PerClassSigmoidMaskLoss,
    build_mask_loss,
)
from mask_rcnn_repro.modeling.poolers import POOLER_REGISTRY, RoIPooler
from mask_rcnn_repro.modeling.roi_heads import PaperRes5ROIHeads, PaperStandardROIHeads
from mask_rcnn_repro.modeling.rpn_head import PaperRPNHead, anchors_per_location

__all__ = [
    "MASK_LOSS_REGISTRY",
    "POOLER_REGISTRY",
    "BoxPredictor",
    "FCBoxHead",
    "FCNMaskHead",
    "KeypointHead",
    "MaskHead",
    "MaskLoss",
    "PaperRPNHead",
    "PaperRes5ROIHeads",
    "PaperStandardROIHeads",
    "PerClassSigmoidMaskLoss",
    "RoIPooler",
    "anchors_per_location",
    "build_fpn",
    "build_mask_loss",
    "build_norm",
    "build_res5",
    "build_resnet",
    "res5_shape",
    "resnet_channels",
]
