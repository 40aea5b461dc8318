"""Table 1, row `Mask R-CNN R101-C4`: the row of table 2a on test-dev.

Claim: the baseline of the comparison by backbone; FPN and ResNeXt improve on it. The training is
that of `table2a/r101_c4`: its checkpoint can be evaluated with this file by `--eval-only
train.init_checkpoint=...`. Annotations of test-dev are not public: the run writes the json files
that COCO's server takes.
"""

from ..table2a.r101_c4 import dataloader, lr_multiplier, model, optimizer, train

dataloader.test.dataset.names = "coco_test_dev"

paper = dict(table="1", row="Mask R-CNN R101-C4")
