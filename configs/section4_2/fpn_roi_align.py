"""Section 4.2, row `RoIAlign`: RoIAlign on a feature pyramid (R50-FPN, minival).

Claim: RoIAlign helps on FPN too. The depth is not in the paper, ours is ResNet-50: the same run as
`table2a/r50_fpn`.
"""

from ..table2a.r50_fpn import dataloader, lr_multiplier, model, optimizer, train

paper = dict(table="text-4.2-fpn-roipool", row="RoIAlign")
