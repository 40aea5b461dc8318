"""Table 9, row `+ test-time augm.`: nine sizes and mirrored views at test (X101-FPN, minival).

Claim: test-time augm. improves keypoints. Shorter edges 400, 500, ... 1200 px (appendix B). Nothing
is trained: the weights are those of `data_distillation`, the proposals for each view those of its
RPN. How views are merged: docs/test_time_augmentation.md.
"""

from .data_distillation import dataloader, lr_multiplier, model, optimizer, train

train.init_from = "table9/data_distillation"
train.max_iter = 0
train.tta = dict(enabled=True, max_size=2000, vote_iou=0.9)

paper = dict(table="9", row="+ test-time augm.", control="table9/data_distillation")
