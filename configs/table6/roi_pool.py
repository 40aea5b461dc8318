"""Table 6, row `RoIPool`: RoIPool instead of RoIAlign (R50-FPN, minival).

Claim: RoIAlign beats RoIPool for keypoints, by 4.4 AP, although a pyramid has fine strides. Both
branches pool with RoIPool.
"""

from .roi_align import dataloader, lr_multiplier, model, optimizer, train

model.roi_heads.box_pooler.pooler_type = "ROIPool"  # the keypoint pooler follows

paper = dict(table="6", row="RoIPool", control="table6/roi_align")
