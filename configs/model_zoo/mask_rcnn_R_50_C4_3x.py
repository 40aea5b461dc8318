"""Detectron2's `COCO-InstanceSegmentation/mask_rcnn_R_50_C4_3x`, built from this project's parts.

For `--eval-only` (published: 39.8 box AP, 34.4 mask AP on val2017). Where the paper's values
differ, Detectron2's are set: RoIs of 14x14 with stride 2 in res5 among them.
"""

from ..common.models.mask_rcnn_c4 import model
from .mask_rcnn_R_50_FPN_3x import dataloader, lr_multiplier, optimizer, train

model.proposal_generator.post_nms_topk = [2000, 1000]
model.proposal_generator.smooth_l1_beta = 0.0
model.roi_heads.batch_size_per_image = 512
model.roi_heads.pooler.output_size = 14
model.roi_heads.pooler.sampling_ratio = 0
model.roi_heads.pooler.pooler_type = "ROIAlignV2"
model.roi_heads.res5.first_stride = 2
model.roi_heads.box_predictor.smooth_l1_beta = 0.0
model.roi_heads.box_predictor.test_nms_thresh = 0.5
del model.roi_heads.mask_head["predictor_init"]

train.init_checkpoint = (
    "detectron2://COCO-InstanceSegmentation/mask_rcnn_R_50_C4_3x/137849525/model_final_4ce675.pkl"
)
