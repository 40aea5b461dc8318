"""RPN stage of the X101-FPN keypoint rows (table 9): ResNeXt-101-64x4d instead of ResNet-101.

8 images an iteration and learning rate 0.01, as for `rpn/x101_fpn`; 130k iterations.
"""

from .r101_fpn_person import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.num_groups = 64
model.backbone.bottom_up.width_per_group = 4
model.backbone.bottom_up.stride_in_1x1 = False  # as the weights have it, see table2a/x101_fpn
train.init_checkpoint = "catalog://ImageNetPretrained/FAIR/X-101-64x4d"

dataloader.train.total_batch_size = 8
optimizer.lr = 0.01
train.reference_batch_size = 8
