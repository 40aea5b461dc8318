"""RPN stage of the Cityscapes rows: ResNet-50 with a feature pyramid.

Data, scales, schedule and batch are those of `table7/fine` (appendix A).
"""

from ..common.data.cityscapes_boxes import dataloader
from ..common.models.rpn_fpn import model
from ..common.optim import optimizer
from ..common.schedules import lr_multiplier_24k as lr_multiplier
from ..common.train import train

optimizer.lr = 0.01
train.max_iter = 24_000
train.reference_batch_size = 8
train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
