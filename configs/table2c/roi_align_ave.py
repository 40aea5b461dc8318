"""Table 2c, row `RoIAlign ave`: nothing is rounded, the average of a bin's samples (R50-C4).

Claim: RoIAlign beats RoIPool and RoIWarp at stride 16. The same run as `table2a/r50_c4`.
"""

from ..table2a.r50_c4 import dataloader, lr_multiplier, model, optimizer, train

paper = dict(table="2c", row="RoIAlign ave")
