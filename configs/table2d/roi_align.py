"""Table 2d, row `RoIAlign`: features of stage 5 at stride 32, RoIAlign (R50-C5, minival).

Claim: with RoIAlign stride 32 is more accurate than stride 16 (control). RoIs per image,
proposals at test, anchors and channels for C5 are not in the paper; ours are those of the FPN rows,
whose branches this model has, with C4's anchors. Samples are averaged (section 4.2).
"""

from ..common.models.mask_rcnn_c5 import model
from ..table2a.r50_c4 import dataloader, lr_multiplier, optimizer, train

train.proposals = "rpn/r50_c5"

paper = dict(table="2d", row="RoIAlign", control="table2c/roi_align_ave")
