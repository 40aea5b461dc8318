"""Table 2c, row `RoIPool max`: RoI and bins are rounded, the maximum of a bin counts (R50-C4).

Claim: RoIAlign beats RoIPool at stride 16, and by more under stricter IoU (AP75).
"""

from ..table2a.r50_c4 import dataloader, lr_multiplier, model, optimizer, train

model.roi_heads.pooler.pooler_type = "ROIPool"

paper = dict(table="2c", row="RoIPool max", control="table2c/roi_align_ave")
