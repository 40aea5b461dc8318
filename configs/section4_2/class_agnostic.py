"""Section 4.2, row `class-agnostic`: a single mask, whatever the class (R50-C4, minival).

Claim: class-agnostic masks are nearly as good.
"""

from detectron2.config import LazyCall as L

from mask_rcnn_repro.modeling import ClassAgnosticMaskLoss

from ..table2a.r50_c4 import dataloader, lr_multiplier, model, optimizer, train

model.roi_heads.mask_head.loss = L(ClassAgnosticMaskLoss)()

paper = dict(
    table="text-4.2-class-agnostic", row="class-agnostic", control="section4_2/class_specific"
)
