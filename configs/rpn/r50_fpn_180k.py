"""RPN stage of table 8's updated baseline on ResNet-50: `rpn/r50_fpn` with that row's schedule."""

from ..common.schedules import lr_multiplier_180k as lr_multiplier
from .r50_fpn import dataloader, model, optimizer, train

train.max_iter = 180_000
