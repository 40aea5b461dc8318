"""Table 2a, row `R101-C4`: ResNet-101 instead of ResNet-50.

Claim: deeper is better on C4.
"""

from .r50_c4 import dataloader, lr_multiplier, model, optimizer, train

model.backbone.depth = 101
train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-101.pkl"
train.proposals = "rpn/r101_c4"

paper = dict(table="2a", row="R101-C4", control="table2a/r50_c4")
