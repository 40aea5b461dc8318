"""Table 8, row `+ deeper`: ResNeXt-152 instead of ResNeXt-101 (X152-FPN, minival).

Claim: deeper improves masks and boxes. The cardinality is not in the paper: 32x8d is that of the
public weights of these 152 layers, which are of ImageNet-5k, too.
"""

from .train_aug import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.depth = 152
model.backbone.bottom_up.num_groups = 32
model.backbone.bottom_up.width_per_group = 8
train.init_checkpoint = "catalog://ImageNetPretrained/FAIR/X-152-32x8d-IN5k"

paper = dict(table="8", row="+ deeper", control="table8/train_aug")
