"""Pre-training of ResNet-101: `pretrain/r50` with more layers."""

from .r50 import dataloader, lr_multiplier, model, optimizer, train

model.backbone.depth = 101
