"""Pre-training of ResNeXt-152-32x8d on more classes, as `pretrain/x101_5k`."""

from .x101_5k import dataloader, lr_multiplier, model, optimizer, train

model.backbone.depth = 152
model.backbone.num_groups = 32
model.backbone.width_per_group = 8
