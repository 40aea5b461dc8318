"""Table 2a, row `R50-FPN`: ResNet-50 with a feature pyramid and the head of figure 4, right.

Claim: FPN beats C4 at ResNet-50.
"""

from ..common.data.coco import dataloader
from ..common.models.mask_rcnn_fpn import model
from ..common.optim import optimizer
from ..common.schedules import lr_multiplier_160k as lr_multiplier
from ..common.train import train

train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
train.proposals = "rpn/r50_fpn"

paper = dict(table="2a", row="R50-FPN", control="table2a/r50_c4")
