"""Table 6, row `RoIAlign`: the keypoint-only model of table 5 (R50-FPN, minival).

Claim: RoIAlign beats RoIPool for keypoints. The same run as `table5/keypoint_only`.
"""

from ..table5.keypoint_only import dataloader, lr_multiplier, model, optimizer, train

paper = dict(table="6", row="RoIAlign")
