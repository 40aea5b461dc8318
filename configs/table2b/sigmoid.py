"""Table 2b, row `sigmoid`: a binary mask for each class, without competition (R50-C4, minival).

Claim: independent masks beat multinomial masks. The same run as `table2a/r50_c4`.
"""

from ..table2a.r50_c4 import dataloader, lr_multiplier, model, optimizer, train

paper = dict(table="2b", row="sigmoid")
