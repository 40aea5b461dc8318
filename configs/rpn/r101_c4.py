"""RPN stage of the R101-C4 rows: ResNet-101 instead of ResNet-50."""

from .r50_c4 import dataloader, lr_multiplier, model, optimizer, train

model.backbone.depth = 101
train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-101.pkl"
