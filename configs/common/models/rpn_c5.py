"""RPN on stage 5 of a ResNet (stride 32): backbone and RPN of `mask_rcnn_c5.py`, without the heads.

2000 proposals an image in training, 1000 at test; rows take as many of them as their own
`proposal_generator.post_nms_topk` says.
"""

from detectron2.config import LazyCall as L
from detectron2.modeling.meta_arch import ProposalNetwork

from mask_rcnn_repro.modeling import StageRPN

from .mask_rcnn_c5 import model as _model

model = L(ProposalNetwork)(
    backbone=_model.backbone,
    proposal_generator=_model.proposal_generator,
    pixel_mean=_model.pixel_mean,
    pixel_std=_model.pixel_std,
)
model.proposal_generator._target_ = StageRPN  # no proposals in training
