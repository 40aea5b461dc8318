"""Table 5, row `keypoint & mask`: boxes, masks and keypoints of persons in one model (R50-FPN,
minival).

Claim: the mask branch helps keypoints; the mask branch helps the boxes of keypoint-only; but the
keypoint branch costs some box AP (against `table5/mask_only`). Section 5: images with annotated
keypoints, shorter edge from 640 to 800 px, 90k iterations, NMS 0.5.
"""

from ..common.data.coco_person import dataloader
from ..common.models.mask_keypoint_rcnn_fpn import model
from ..common.optim import optimizer
from ..common.schedules import lr_multiplier_90k as lr_multiplier
from ..common.train import train

train.max_iter = 90_000
train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
train.proposals = "rpn/r50_fpn_person"

paper = dict(table="5", row="keypoint & mask", control="table5/keypoint_only")
