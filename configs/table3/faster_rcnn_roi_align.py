"""Table 3, row `Faster R-CNN, RoIAlign`: trained without the mask branch (R101-FPN, test-dev).

Claim: multi-task training with masks helps boxes (+0.9 AP). Section 4.3 also compares this row with
another system's `Faster R-CNN w FPN`: RoIAlign alone brings +1.1 AP.
"""

from .r101_fpn import dataloader, lr_multiplier, model, optimizer, train

for _key in ("mask_in_features", "mask_pooler", "mask_head"):
    del model.roi_heads[_key]
dataloader.train.mapper.use_instance_mask = False

paper = dict(table="3", row="Faster R-CNN, RoIAlign", control="table3/r101_fpn")
