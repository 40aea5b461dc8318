"""Pre-training of ResNeXt-101-64x4d: `pretrain/r101` with groups, strided as the rows' network."""

from .r101 import dataloader, lr_multiplier, model, optimizer, train

model.backbone.num_groups = 64
model.backbone.width_per_group = 4
model.backbone.stride_in_1x1 = False
