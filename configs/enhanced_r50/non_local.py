"""`table8/non_local` on ResNet-50-FPN: one non-local block in stage 4."""

from .train_aug import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.non_local = ["res4"]

paper = dict(counterpart="table8/non_local", control="enhanced_r50/train_aug")
