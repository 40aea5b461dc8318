"""Model parts; importing this module puts them into Detectron2's registries and ours.

| file | what it is |
|---|---|
| backbone/ | ResNet, ResNeXt, FPN of any width; stage 5 as a RoI head; non-local block |
| rpn_head.py, rpn_stage.py | the RPN's head; the RPN that is trained on its own |
| sparse_rpn_head.py | the RPN head's backward pass where anchors were sampled alone |
| poolers.py, roi_layers.py | choice of the pyramid level; RoI layers |
| roi_compiled.py, roi_kernels.py, roi_pool_kernels.py | RoI layers on the CPU by compiled loops |
| roi_heads/ | C4 (res5) and FPN/C5 heads |
| box_head.py, box_predictor.py | box branch |
| mask_heads.py, mask_losses.py | mask branch |
| keypoint_head.py | keypoint branch |
| stagewise.py | detector and RPN of two stages joined, for images alone |
| shared_features.py | detector that shares its features with an RPN trained before it |
| optimize.py, fused_*.py | a model made faster for inference, equal up to rounding |
| onednn.py, winograd.py, winograd_kernels.py | its convolutions on the CPU |
| test_time_augmentation.py, tta_views.py | several sizes and mirrored views of an image, merged |
"""

from mask_rcnn_repro.modeling.backbone import (
    NonLocalBlock,
    build_fpn,
    build_norm,
    build_res5,
    build_resnet,
    res5_shape,
    resnet_channels,
)
from mask_rcnn_repro.modeling.box_head import FCBoxHead
from mask_rcnn_repro.modeling.box_predictor import BoxPredictor
from mask_rcnn_repro.modeling.inference.optimize import optimize_for_inference
from mask_rcnn_repro.modeling.keypoint_head import KeypointHead
from mask_rcnn_repro.modeling.mask_heads import FCNMaskHead, MaskHead, MLPMaskHead
from mask_rcnn_repro.modeling.mask_losses import (
    MASK_LOSS_REGISTRY,
    ClassAgnosticMaskLoss,
    MaskLoss,
    MultinomialMaskLoss,
    PerClassSigmoidMaskLoss,
    build_mask_loss,
    mask_targets,
)
from mask_rcnn_repro.modeling.poolers import RoIPooler
from mask_rcnn_repro.modeling.roi_heads import PaperRes5ROIHeads, PaperStandardROIHeads
from mask_rcnn_repro.modeling.roi_layers import POOLER_REGISTRY
from mask_rcnn_repro.modeling.rpn_head import PaperRPNHead, anchors_per_location
from mask_rcnn_repro.modeling.rpn_stage import StageRPN
from mask_rcnn_repro.modeling.shared_features import SharedFeatureRCNN
from mask_rcnn_repro.modeling.stagewise import StageWiseRCNN
from mask_rcnn_repro.modeling.test_time_augmentation import TestTimeAugmentation

__all__ = [
    "MASK_LOSS_REGISTRY",
    "POOLER_REGISTRY",
    "BoxPredictor",
    "ClassAgnosticMaskLoss",
    "FCBoxHead",
    "FCNMaskHead",
    "KeypointHead",
    "MLPMaskHead",
    "MaskHead",
    "MaskLoss",
    "MultinomialMaskLoss",
    "NonLocalBlock",
    "PaperRPNHead",
    "PaperRes5ROIHeads",
    "PaperStandardROIHeads",
    "PerClassSigmoidMaskLoss",
    "RoIPooler",
    "SharedFeatureRCNN",
    "StageRPN",
    "StageWiseRCNN",
    "TestTimeAugmentation",
    "anchors_per_location",
    "build_fpn",
    "build_mask_loss",
    "build_norm",
    "build_res5",
    "build_resnet",
    "mask_targets",
    "optimize_for_inference",
    "res5_shape",
    "resnet_channels",
]
