"""Table 8, row `+ Non-local`: one non-local block in stage 4 (X152-FPN-NL, minival).

Claim: Non-local improves masks and boxes. Just before the stage's last residual block (Wang et al.
2017, section 6); it begins as the identity, the weights around it are those of `deeper`.
"""

from .deeper import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.non_local = ["res4"]

paper = dict(table="8", row="+ Non-local", control="table8/deeper")
