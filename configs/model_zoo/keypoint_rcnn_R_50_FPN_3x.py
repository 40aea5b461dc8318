"""Detectron2's `COCO-Keypoints/keypoint_rcnn_R_50_FPN_3x`, built from this project's parts.

For `--eval-only` (published: 55.4 box AP, 65.5 keypoint AP on val2017).
"""

from ..common.models.keypoint_branch import keypoint_branch as _keypoint_branch
from .mask_rcnn_R_50_FPN_3x import dataloader, lr_multiplier, model, optimizer, train

for _key in ("mask_in_features", "mask_pooler", "mask_head"):
    del model.roi_heads[_key]
model.roi_heads.num_classes = 1
model.roi_heads.merge_with(_keypoint_branch)
model.roi_heads.box_predictor.smooth_l1_beta = 0.5
model.proposal_generator.post_nms_topk = [1500, 1000]

dataloader.train.dataset.names = "keypoints_coco_2017_train"
dataloader.train.dataset.min_keypoints = 1
dataloader.train.mapper.use_instance_mask = False
dataloader.train.mapper.use_keypoint = True
dataloader.test.dataset.names = "keypoints_coco_2017_val"

train.init_checkpoint = (
    "detectron2://COCO-Keypoints/keypoint_rcnn_R_50_FPN_3x/137849621/model_final_a6e10b.pkl"
)
