"""Table 9, row `+ data distillation`: on labeled and generated annotations (X101-FPN, minival).

Claim: data distillation improves keypoints. The model of `table9/resnext` annotates COCO's
unlabeled images; four images of ten are generated (our choice).
"""

from detectron2.config import LazyCall as L

from mask_rcnn_repro.data import get_mixed_dicts

from .resnext import dataloader, lr_multiplier, model, optimizer, train

dataloader.train.dataset = L(get_mixed_dicts)(
    names=dataloader.train.dataset.names,
    min_keypoints=dataloader.train.dataset.min_keypoints,
    generated_part=0.4,
    teacher="table9/resnext",
)

paper = dict(table="9", row="+ data distillation", control="table9/resnext")
