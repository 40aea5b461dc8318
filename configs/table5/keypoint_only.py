"""Table 5, row `keypoint-only`: without the mask branch (R50-FPN, minival).

Claim: the keypoint branch alone costs box AP against Faster R-CNN: 50.7, and 52.5 without it.
"""

from .keypoint_and_mask import dataloader, lr_multiplier, model, optimizer, train

for _key in ("mask_in_features", "mask_pooler", "mask_head"):
    del model.roi_heads[_key]
dataloader.train.mapper.use_instance_mask = False

paper = dict(table="5", row="keypoint-only", control="table5/faster_rcnn")
