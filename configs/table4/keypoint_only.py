"""Table 4, row `keypoint-only`: the row of table 5 on test-dev.

Claim: the mask branch helps keypoints (table 5 states it on minival): this is the model without.
The training is that of `table5/keypoint_only`: its checkpoint can be evaluated with this file by
`--eval-only train.init_checkpoint=...`. The run writes the json files that COCO's server takes.
"""

from ..table5.keypoint_only import dataloader, lr_multiplier, model, optimizer, train

dataloader.test.dataset.names = "keypoints_coco_test_dev"

paper = dict(table="4", row="keypoint-only")
