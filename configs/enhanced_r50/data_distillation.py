"""`table9/data_distillation` on ResNet-50-FPN: the keypoint model teaches itself.

Teacher and control are `table9/original`: the same network, schedule and labeled images.
"""

from detectron2.config import LazyCall as L

from mask_rcnn_repro.data import get_mixed_dicts

from ..table9.original import dataloader, lr_multiplier, model, optimizer, train

dataloader.train.dataset = L(get_mixed_dicts)(
    names=dataloader.train.dataset.names,
    min_keypoints=dataloader.train.dataset.min_keypoints,
    generated_part=0.4,
    teacher="table9/original",
)

paper = dict(counterpart="table9/data_distillation", control="table9/original")
