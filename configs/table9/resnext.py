"""Table 9, row `+ ResNeXt`: ResNeXt-101 instead of ResNet-101 (X101-FPN, minival).

Claim: ResNeXt improves keypoints. 8 images and learning rate 0.01, as section 3.1 has it for
ResNeXt; 64x4d as in `table2a/x101_fpn`.
"""

from .deeper import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.num_groups = 64
model.backbone.bottom_up.width_per_group = 4
model.backbone.bottom_up.stride_in_1x1 = False  # as the weights have it, see table2a/x101_fpn
train.init_checkpoint = "catalog://ImageNetPretrained/FAIR/X-101-64x4d"
train.proposals = "rpn/x101_fpn_person"

dataloader.train.total_batch_size = 8
optimizer.lr = 0.01
train.reference_batch_size = 8

paper = dict(table="9", row="+ ResNeXt", control="table9/deeper")
