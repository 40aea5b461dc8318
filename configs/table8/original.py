"""Table 8, row `original baseline`: X101-FPN as in table 2a (minival).

Claim: what the updated baseline and all rows after it improve on. The same run as
`table2a/x101_fpn`: RPN trained first, 160k iterations, NMS 0.3.
"""

from ..table2a.x101_fpn import dataloader, lr_multiplier, model, optimizer, train

paper = dict(table="8", row="original baseline")
