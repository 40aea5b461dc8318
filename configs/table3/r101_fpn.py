"""Table 3, row `Mask R-CNN R101-FPN`: the box AP of table 1's row, on test-dev.

Claim: multi-task training with masks helps boxes (`table3/faster_rcnn_roi_align`). The full model
is trained, its masks are left aside. The same run as `table1/r101_fpn`; the training is that of
`table2a/r101_fpn`, whose checkpoint can be evaluated with `--eval-only train.init_checkpoint=...`.
"""

from ..table1.r101_fpn import dataloader, lr_multiplier, model, optimizer, train

paper = dict(table="3", row="Mask R-CNN R101-FPN")
