"""The embedded data set (docs/embedded_data.md) in COCO's place: 128 px, for CPUs."""

from .coco import dataloader

dataloader.train.dataset.names = "embedded_train"
dataloader.test.dataset.names = "embedded_val"
for _loader in (dataloader.train, dataloader.test):
    _loader.mapper.augmentations[0].short_edge_length = [128]
    _loader.mapper.augmentations[0].max_size = 214
    _loader.num_workers = 1
dataloader.train.total_batch_size = 8
