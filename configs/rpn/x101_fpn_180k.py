"""RPN stage of table 8's updated baseline: `rpn/x101_fpn` with the row's longer schedule."""

from ..common.schedules import lr_multiplier_180k as lr_multiplier
from .x101_fpn import dataloader, model, optimizer, train

train.max_iter = 180_000
