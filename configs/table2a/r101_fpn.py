"""Table 2a, row `R101-FPN`: ResNet-101 instead of ResNet-50.

Claim: deeper is better on FPN (control), and FPN beats C4 at ResNet-101 too (`table2a/r101_c4`).
"""

from .r50_fpn import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.depth = 101
train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-101.pkl"
train.proposals = "rpn/r101_fpn"

paper = dict(table="2a", row="R101-FPN", control="table2a/r50_fpn")
