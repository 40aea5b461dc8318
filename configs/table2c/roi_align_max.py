"""Table 2c, row `RoIAlign max`: nothing is rounded, the maximum of a bin's samples (R50-C4).

Claim: RoIAlign does not depend on max or average.
"""

from ..table2a.r50_c4 import dataloader, lr_multiplier, model, optimizer, train

model.roi_heads.pooler.pooler_type = "ROIAlignMax"

paper = dict(table="2c", row="RoIAlign max", control="table2c/roi_align_ave")
