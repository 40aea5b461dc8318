"""Table 8, row `+ test-time augm.`: nine sizes and mirrored views at test (X152-FPN-NL, minival).

Claim: test-time augm. improves masks and boxes. Shorter edges 400, 500, ... 1200 px (appendix B).
Nothing is trained: the weights are those of `non_local`, whose run is made first where it is
missing. How views are merged: docs/test_time_augmentation.md.
"""

from .non_local import dataloader, lr_multiplier, model, optimizer, train

train.init_from = "table8/non_local"
train.max_iter = 0
train.tta = dict(enabled=True, max_size=2000, vote_iou=0.9)

paper = dict(table="8", row="+ test-time augm.", control="table8/non_local")
