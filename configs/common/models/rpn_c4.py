"""RPN on stage 4 of a ResNet (stride 16): backbone and RPN of `mask_rcnn_c4.py`, without the heads.

1000 proposals an image at test, so that average recall can be told at 100, 300 and 1000. Rows take
as many of them as their own `proposal_generator.post_nms_topk` says: 300 (section 3.1).
"""

from detectron2.config import LazyCall as L
from detectron2.modeling.meta_arch import ProposalNetwork

from mask_rcnn_repro.modeling import StageRPN

from .mask_rcnn_c4 import model as _model

model = L(ProposalNetwork)(
    backbone=_model.backbone,
    proposal_generator=_model.proposal_generator,
    pixel_mean=_model.pixel_mean,
    pixel_std=_model.pixel_std,
)

model.proposal_generator._target_ = StageRPN  # no proposals in training
model.proposal_generator.post_nms_topk = [2000, 1000]
