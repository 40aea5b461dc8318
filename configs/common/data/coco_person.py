"""COCO's persons with keypoints, `trainval35k` -> `minival` (section 5).

Trained on the images that have annotated keypoints, tested on all. The shorter edge is any length
from 640 to 800 px in training (Detectron: one of six), 800 px at test.
"""

from .coco import dataloader

dataloader.train.dataset.names = "keypoints_coco_trainval35k"
dataloader.train.dataset.min_keypoints = 1
dataloader.train.mapper.augmentations[0].short_edge_length = [640, 800]
dataloader.train.mapper.augmentations[0].sample_style = "range"
dataloader.train.mapper.use_keypoint = True
dataloader.test.dataset.names = "keypoints_coco_minival"
