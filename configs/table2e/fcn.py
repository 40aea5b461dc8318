"""Table 2e, row `FCN`: the fully convolutional mask branch (R50-FPN, minival).

Claim: FCN mask branch beats MLP. The same run as `table2a/r50_fpn`.
"""

from ..table2a.r50_fpn import dataloader, lr_multiplier, model, optimizer, train

paper = dict(table="2e", row="FCN")
