"""RPN stage of the R101-FPN keypoint rows: ResNet-101 instead of ResNet-50."""

from .r50_fpn_person import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.depth = 101
train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-101.pkl"
