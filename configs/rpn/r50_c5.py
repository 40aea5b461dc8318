"""RPN stage of the R50-C5 rows: ResNet-50, features of stage 5 (stride 32).

Schedule and batch are those of the rows, as for `rpn/r50_c4`. Anchors for C5 are not in the paper;
here they are C4's.
"""

from ..common.data.coco_boxes import dataloader
from ..common.models.rpn_c5 import model
from ..common.optim import optimizer
from ..common.schedules import lr_multiplier_160k as lr_multiplier
from ..common.train import train

train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
