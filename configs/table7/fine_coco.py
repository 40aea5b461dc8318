"""Table 7, row `Mask R-CNN fine + COCO`: from a model trained on COCO (R50-FPN, val).

Claim: COCO pre-training helps on Cityscapes, most on the rare truck, bus and train. Seven classes
take over the outputs of COCO's classes of the same names, `rider` starts at random (appendix A): 4k
iterations, the rate drops at 3k. Where it starts and by how much it drops is not in the paper: here
as in `table7/fine`. A checkpoint from elsewhere: `train.init_from=null train.init_checkpoint=FILE
train.init_classes_of=coco_trainval35k`.
"""

from .fine import dataloader, lr_multiplier, model, optimizer, train

train.max_iter = 4000
lr_multiplier.milestones = [3000]
train.init_checkpoint = ""
train.init_from = "table2a/r50_fpn"
train.init_classes = {}
train.init_classes_random = "weights"  # Detectron's; the paper says "randomly"

paper = dict(table="7", row="Mask R-CNN fine + COCO", control="table7/fine")
