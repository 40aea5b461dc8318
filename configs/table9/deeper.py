"""Table 9, row `+ deeper`: ResNet-101 instead of ResNet-50 (R101-FPN, minival).

Claim: deeper improves keypoints.
"""

from .updated_baseline import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.depth = 101
train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-101.pkl"
train.proposals = "rpn/r101_fpn_person"

paper = dict(table="9", row="+ deeper", control="table9/updated_baseline")
