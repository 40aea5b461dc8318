"""Table 2b, row `softmax`: classes compete for every mask pixel (R50-C4, minival).

Claim: independent masks beat multinomial masks. Background competes as one class more. How masks
are averaged in the loss is not in the paper: over all pixels of positive RoIs, as for sigmoid
masks.
"""

from detectron2.config import LazyCall as L

from mask_rcnn_repro.modeling import MultinomialMaskLoss

from ..table2a.r50_c4 import dataloader, lr_multiplier, model, optimizer, train

model.roi_heads.mask_head.loss = L(MultinomialMaskLoss)()

paper = dict(table="2b", row="softmax", control="table2b/sigmoid")
