"""Table 8, row `+ test-time augm.`: nine sizes and mirrored views at test (X152-FPN-NL, minival).

Claim: test-time augm. improves masks and boxes. Shorter edges 400, 500, ... 1200 px (appendix B).
The training is that of `table8/non_local`: its checkpoint can be evaluated with this file by
`--eval-only train.init_checkpoint=...`. How views are merged: docs/deviations.md.
"""

from .non_local import dataloader, lr_multiplier, model, optimizer, train

train.tta = dict(enabled=True)

paper = dict(table="8", row="+ test-time augm.", control="table8/non_local")
