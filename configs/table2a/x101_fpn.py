"""Table 2a, row `X101-FPN`: ResNeXt-101 instead of ResNet-101.

Claim: ResNeXt improves on ResNet. Section 3.1: one image per GPU (8 in all) and learning rate
0.01, as many iterations. The cardinality is not in the paper; 64x4d is Detectron's model of these
numbers.
"""

from .r101_fpn import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.num_groups = 64
model.backbone.bottom_up.width_per_group = 4
# The ResNeXt weights stride in the 3x3 convolution; like all weights of Detectron's catalogue they
# have the pixel deviation in their first layer, so pixel_std stays 1.
model.backbone.bottom_up.stride_in_1x1 = False
train.init_checkpoint = "catalog://ImageNetPretrained/FAIR/X-101-64x4d"
train.proposals = "rpn/x101_fpn"

dataloader.train.total_batch_size = 8
optimizer.lr = 0.01
train.reference_batch_size = 8

paper = dict(table="2a", row="X101-FPN", control="table2a/r101_fpn")
