"""RPN stage of the R50-FPN keypoint rows: ResNet-50 with a feature pyramid, persons alone.

Data, scales, schedule and batch are those of the rows (section 5), as for `rpn/r50_fpn`.
"""

from ..common.data.coco_person_boxes import dataloader
from ..common.models.rpn_fpn import model
from ..common.optim import optimizer
from ..common.schedules import lr_multiplier_90k as lr_multiplier
from ..common.train import train

train.max_iter = 90_000
train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
