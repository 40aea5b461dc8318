"""Cityscapes `train` -> `val`, fine annotations (appendix A): 8 images an iteration, shorter edge
any length from 800 to 1024 px in training, 1024 px (the images as they are) at test.
"""

from detectron2.config import LazyCall as L

from mask_rcnn_repro.data import get_cityscapes_dicts

from .coco import dataloader

dataloader.train.dataset = L(get_cityscapes_dicts)(names="cityscapes_train", masks="instance_ids")
dataloader.train.mapper.augmentations[0].short_edge_length = [800, 1024]
dataloader.train.mapper.augmentations[0].sample_style = "range"
dataloader.train.total_batch_size = 8
dataloader.test.dataset = L(get_cityscapes_dicts)(names="cityscapes_val", filter_empty=False)
dataloader.test.mapper.augmentations[0].short_edge_length = [1024]
for _loader in (dataloader.train, dataloader.test):
    _loader.mapper.augmentations[0].max_size = 2048
