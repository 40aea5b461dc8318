"""`table8/e2e` on ResNet-50-FPN: RPN and heads trained together."""

from .updated_baseline import dataloader, lr_multiplier, model, optimizer, train

train.proposals = None

paper = dict(counterpart="table8/e2e", control="enhanced_r50/updated_baseline")
