"""Step 3 of the 4-step training of section 4.4: an RPN on the features of the trained detector.

Backbone and pyramid are those of `table2a/r101_fpn` (step 2) and stay fixed; the RPN's own layers
start from random weights. Step 4 is `section4_4/r101_fpn_shared`. That the pyramid is among the
shared layers, and the schedule of the step, are not in the paper.
"""

from .r101_fpn import dataloader, lr_multiplier, model, optimizer, train

train.init_checkpoint = ""
train.init_from = "table2a/r101_fpn"
train.freeze = ["backbone"]
