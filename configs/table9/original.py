"""Table 9, row `original baseline`: the keypoint-only model of table 5 (R50-FPN, minival).

Claim: what the updated baseline and all rows after it improve on. The same run as
`table5/keypoint_only`. That table 9 is trained stage by stage is our choice.
"""

from ..table5.keypoint_only import dataloader, lr_multiplier, model, optimizer, train

paper = dict(table="9", row="original baseline")
