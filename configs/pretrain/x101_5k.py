"""Pre-training of ResNeXt-101-64x4d on more classes: stands for ImageNet-5k in table 8."""

from .x101 import dataloader, lr_multiplier, model, optimizer, train

dataloader.train.dataset.names = "embedded_many_crops_train"
dataloader.test.dataset.names = "embedded_many_crops_val"
model.backbone.num_classes = 60
