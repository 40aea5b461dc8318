"""RPN stage of the R101-FPN keypoint row (table 9): ResNet-101 instead of ResNet-50.

130k iterations, as the row has.
"""

from .r50_fpn_person_130k import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.depth = 101
train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-101.pkl"
