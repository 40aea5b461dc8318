"""Table 2c, row `RoIWarp max`: the RoI is rounded, then sampled bilinearly, maximum (R50-C4).

Claim: RoIWarp is on par with RoIPool (`table2c/roi_pool_max`), since it rounds the RoI as well.
The four samples a bin are those of RoIAlign; RoIWarp's own are not in the paper.
"""

from ..table2a.r50_c4 import dataloader, lr_multiplier, model, optimizer, train

model.roi_heads.pooler.pooler_type = "ROIWarpMax"

paper = dict(table="2c", row="RoIWarp max", control="table2c/roi_align_ave")
