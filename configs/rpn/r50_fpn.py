"""RPN stage of the R50-FPN rows: ResNet-50 with a feature pyramid.

Schedule and batch are those of the rows, as for `rpn/r50_c4`.
"""

from ..common.data.coco_boxes import dataloader
from ..common.models.rpn_fpn import model
from ..common.optim import optimizer
from ..common.schedules import lr_multiplier_160k as lr_multiplier
from ..common.train import train

train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
