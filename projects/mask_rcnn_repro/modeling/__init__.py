"""Model parts. Importing this package registers them with Detectron2's registries and ours.

| file | what it holds | paper |
|---|---|---|
| roi_layers.py | RoIPool, RoIWarp, RoIAlign | section 3, tables 2c and 2d |
| poolers.py | choice of the pyramid level of a RoI | section 3.1 |
| backbone/ | ResNet, ResNeXt, FPN, stage 5 as a head, non-local block | section 3.1 |
| rpn.py | head of the RPN; the RPN of a stage of its own | section 3.1 |
| roi_heads/ | C4 heads (res5.py), FPN and C5 heads (standard.py) | figure 4 |
| box_head.py | box branch | figure 4 |
| mask_heads.py | mask branch: FCN and MLP | section 3, figure 4, table 2e |
| mask_losses.py | per-class sigmoid, softmax, class-agnostic | section 3, table 2b, section 4.2 |
| keypoint_head.py | keypoint branch | section 5 |
| classifier.py | image classifier, which a backbone is pre-trained in | section 3.1 |
| meta_arch.py | detectors that are trained in several stages | sections 3.1 and 4.4 |
| compiling.py | parts compiled by PyTorch for training | - |
| gpu_training.py | RPN, anchors and matcher with fewer kernels and waits on a GPU | - |
| inference/ | faster models for inference; test-time augmentation | appendix B |
| accel/ | computations that replace PyTorch's, mostly on the CPU | - |

`accel` imports no other part, and no other part imports `inference`.
"""

from mask_rcnn_repro.modeling.backbone.fpn import build_fpn
from mask_rcnn_repro.modeling.backbone.non_local import NonLocalBlock
from mask_rcnn_repro.modeling.backbone.norm import build_norm
from mask_rcnn_repro.modeling.backbone.resnet import (
    build_res5,
    build_resnet,
    res5_shape,
    resnet_channels,
)
from mask_rcnn_repro.modeling.box_head import BoxPredictor, FCBoxHead
from mask_rcnn_repro.modeling.classifier import ImageClassifier
from mask_rcnn_repro.modeling.inference.optimize import optimize_for_inference
from mask_rcnn_repro.modeling.inference.test_time_augmentation import TestTimeAugmentation
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
from mask_rcnn_repro.modeling.meta_arch import SharedFeatureRCNN, StageWiseRCNN
from mask_rcnn_repro.modeling.poolers import RoIPooler
from mask_rcnn_repro.modeling.roi_heads.res5 import PaperRes5ROIHeads
from mask_rcnn_repro.modeling.roi_heads.standard import PaperStandardROIHeads
from mask_rcnn_repro.modeling.roi_layers import POOLER_REGISTRY
from mask_rcnn_repro.modeling.rpn import PaperRPNHead, StageRPN, anchors_per_location

__all__ = [
    "MASK_LOSS_REGISTRY",
    "POOLER_REGISTRY",
    "BoxPredictor",
    "ClassAgnosticMaskLoss",
    "FCBoxHead",
    "FCNMaskHead",
    "ImageClassifier",
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
