"""RPN stage of the R101-FPN rows, and step 1 of the 4-step training of section 4.4: ResNet-101
instead of ResNet-50.
"""

from .r50_fpn import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.depth = 101
train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-101.pkl"
