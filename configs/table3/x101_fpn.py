"""Table 3, row `Mask R-CNN X101-FPN`: the box AP of table 1's row, on test-dev.

Claim: ResNeXt improves boxes too (the table's caption: +1.6 AP). The full model is trained, its
masks are left aside. The same run as `table1/x101_fpn`; the training is that of
`table2a/x101_fpn`, whose checkpoint can be evaluated with `--eval-only train.init_checkpoint=...`.
"""

from ..table1.x101_fpn import dataloader, lr_multiplier, model, optimizer, train

paper = dict(table="3", row="Mask R-CNN X101-FPN", control="table3/r101_fpn")
