"""Table 2a, row `R50-C4`: ResNet-50, features of stage 4, res5 head (figure 4, left).

Claim: the baseline of the backbone comparison; deeper networks and FPN improve on it.
"""

from ..common.data.coco import dataloader
from ..common.models.mask_rcnn_c4 import model
from ..common.optim import optimizer
from ..common.schedules import lr_multiplier_160k as lr_multiplier
from ..common.train import train

train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
train.proposals = "rpn/r50_c4"

paper = dict(table="2a", row="R50-C4")
