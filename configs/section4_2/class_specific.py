"""Section 4.2, row `class-specific`: a mask for each class (R50-C4, minival).

Claim: class-agnostic masks are nearly as good. The same run as `table2a/r50_c4`.
"""

from ..table2a.r50_c4 import dataloader, lr_multiplier, model, optimizer, train

paper = dict(table="text-4.2-class-agnostic", row="class-specific")
