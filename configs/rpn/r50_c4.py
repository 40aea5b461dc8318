"""RPN stage of the R50-C4 rows: ResNet-50, features of stage 4 (stride 16).

The paper trains the RPN separately, on the same backbone as the rows (section 3.1). Schedule and
batch of the stage are not in the paper; here they are those of the rows.
"""

from ..common.data.coco_boxes import dataloader
from ..common.models.rpn_c4 import model
from ..common.optim import optimizer
from ..common.schedules import lr_multiplier_160k as lr_multiplier
from ..common.train import train

train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
