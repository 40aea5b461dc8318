"""Table 2e, row `MLP 1024-1024-1024`: three hidden fc layers predict the masks (R50-FPN, minival).

Claim: a third fc layer brings nothing (seen in the numbers, not said in the text).
"""

from .mlp_2fc import dataloader, lr_multiplier, model, optimizer, train

model.roi_heads.mask_head.num_fc = 3

paper = dict(table="2e", row="MLP 1024-1024-1024", control="table2e/mlp_2fc")
