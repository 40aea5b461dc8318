"""Section 4.4, row `R101-FPN inference, shared features`: RPN and heads on one backbone (minival).

Claim: features shared by 4-step training: statistically the same mask AP. The four steps are those
of Faster R-CNN, here with everything that one step needs made before it:

1. `rpn/r101_fpn`: an RPN from ImageNet's weights.
2. `table2a/r101_fpn`: a detector from ImageNet's weights, on the proposals of step 1.
3. `rpn/r101_fpn_shared`: an RPN on the detector's backbone, which stays fixed.
4. this file: the heads, on the proposals of step 3, with backbone and RPN fixed.

Schedules of the steps, and where steps 3 and 4 take their own layers from, are not in the paper:
ours are the row's schedule in every step, new RPN layers in step 3, the detector's heads in step 4.
"""

from mask_rcnn_repro.modeling import SharedFeatureRCNN

from ..table2a.r101_fpn import dataloader, lr_multiplier, model, optimizer, train

model._target_ = SharedFeatureRCNN
train.init_checkpoint = ""
train.init_from = "table2a/r101_fpn"
train.proposals = "rpn/r101_fpn_shared"
train.freeze = ["backbone", "proposal_generator"]

paper = dict(table="timing", row="R101-FPN inference, shared features", control="table2a/r101_fpn")
