"""Table 5, row `Faster R-CNN`: the box branch alone, on the same images (R50-FPN, minival).

Claim: the mask branch helps person boxes, the keypoint branch does not: this is what both are
compared with.
"""

from .mask_only import dataloader, lr_multiplier, model, optimizer, train

for _key in ("mask_in_features", "mask_pooler", "mask_head"):
    del model.roi_heads[_key]
dataloader.train.mapper.use_instance_mask = False

paper = dict(table="5", row="Faster R-CNN")
