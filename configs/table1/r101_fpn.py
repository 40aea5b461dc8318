"""Table 1, row `Mask R-CNN R101-FPN`: the row of table 2a on test-dev.

Claim: FPN beats C4 at ResNet-101. Stated about minival (table 2a). The training is that of
`table2a/r101_fpn`: its checkpoint can be evaluated with this file by `--eval-only
train.init_checkpoint=...`. Annotations of test-dev are not public: the run writes the json files
that COCO's server takes.
"""

from ..table2a.r101_fpn import dataloader, lr_multiplier, model, optimizer, train

dataloader.test.dataset.names = "coco_test_dev"

paper = dict(table="1", row="Mask R-CNN R101-FPN", control="table1/r101_c4")
