"""Table 8, row `+ e2e training`: RPN and heads share features and learn together (X101-FPN,
minival).

Claim: e2e training improves masks and boxes. Approximate joint training: RoI coordinates pass no
gradient on (appendix B).
"""

from .updated_baseline import dataloader, lr_multiplier, model, optimizer, train

train.proposals = None  # the RPN of `model` is trained, no other is read

paper = dict(table="8", row="+ e2e training", control="table8/updated_baseline")
