"""Table 2d, row `RoIPool`: features of stage 5 at stride 32, RoIPool (R50-C5, minival).

Claim: RoIAlign beats RoIPool at stride 32, by more than at stride 16 (table 2c), and by more in
masks than in boxes. Both branches pool with RoIPool, which takes the maximum.
"""

from .roi_align import dataloader, lr_multiplier, model, optimizer, train

model.roi_heads.box_pooler.pooler_type = "ROIPool"  # the mask pooler follows

paper = dict(table="2d", row="RoIPool", control="table2d/roi_align")
