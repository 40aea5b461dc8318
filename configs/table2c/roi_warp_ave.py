"""Table 2c, row `RoIWarp ave`: the RoI is rounded, then sampled bilinearly, average (R50-C4).

Claim: RoIAlign beats RoIWarp: alignment, not interpolation, is what counts. The four samples a bin
are those of RoIAlign; RoIWarp's own are not in the paper.
"""

from ..table2a.r50_c4 import dataloader, lr_multiplier, model, optimizer, train

model.roi_heads.pooler.pooler_type = "ROIWarpAve"

paper = dict(table="2c", row="RoIWarp ave", control="table2c/roi_align_ave")
