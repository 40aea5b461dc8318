"""`table8/train_aug` on ResNet-50-FPN: shorter edge from 640 to 800 px, 260k iterations.

Its control is `enhanced_r50/e2e`; weights of ImageNet-5k for ResNet-50 there are none.
"""

from ..common.schedules import lr_multiplier_260k as lr_multiplier
from .e2e import dataloader, model, optimizer, train

train.max_iter = 260_000
dataloader.train.mapper.augmentations[0].short_edge_length = [640, 800]
dataloader.train.mapper.augmentations[0].sample_style = "range"

paper = dict(counterpart="table8/train_aug", control="enhanced_r50/e2e")
