"""`table8/test_aug` on ResNet-50-FPN: nine sizes and mirrored views at test; nothing is trained."""

from .non_local import dataloader, lr_multiplier, model, optimizer, train

train.init_from = "enhanced_r50/non_local"
train.max_iter = 0
train.tta = dict(enabled=True)

paper = dict(counterpart="table8/test_aug", control="enhanced_r50/non_local")
