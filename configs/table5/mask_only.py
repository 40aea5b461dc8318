"""Table 5, row `mask-only`: without the keypoint branch, on the same images (R50-FPN, minival).

Claim: the mask branch helps person boxes.
"""

from .keypoint_and_mask import dataloader, lr_multiplier, model, optimizer, train

for _key in ("keypoint_in_features", "keypoint_pooler", "keypoint_head"):
    del model.roi_heads[_key]
dataloader.train.mapper.use_keypoint = False

paper = dict(table="5", row="mask-only", control="table5/faster_rcnn")
