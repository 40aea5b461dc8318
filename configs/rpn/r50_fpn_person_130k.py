"""RPN stage of table 9's updated baseline: `rpn/r50_fpn_person` with the row's longer schedule."""

from ..common.schedules import lr_multiplier_130k as lr_multiplier
from .r50_fpn_person import dataloader, model, optimizer, train

train.max_iter = 130_000
