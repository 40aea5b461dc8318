"""Table 9, row `+ updated baseline`: trained longer (R50-FPN, minival).

Claim: updated baseline improves keypoints. 130k iterations, divided by 10 at 100k and 120k
(appendix B); NMS is at 0.5 already.
"""

from ..common.schedules import lr_multiplier_130k as lr_multiplier
from .original import dataloader, model, optimizer, train

train.max_iter = 130_000
train.proposals = "rpn/r50_fpn_person_130k"

paper = dict(table="9", row="+ updated baseline", control="table9/original")
