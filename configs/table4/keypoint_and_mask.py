"""Table 4, row `keypoint & mask`: the row of table 5 on test-dev.

Claim: the mask branch helps keypoints (table 5 states it on minival). The training is that of
`table5/keypoint_and_mask`.
"""

from ..table5.keypoint_and_mask import dataloader, lr_multiplier, model, optimizer, train

dataloader.test.dataset.names = "keypoints_coco_test_dev"

paper = dict(table="4", row="keypoint & mask", control="table4/keypoint_only")
