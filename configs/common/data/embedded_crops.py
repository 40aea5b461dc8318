"""Crops of single objects (docs/embedded_data.md) in ImageNet's place, resized to 96 px.

Their objects fill 60 to 90 px, as the medium and large ones of detection at `mini` do.
"""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from mask_rcnn_repro.data import (
    MaskRCNNMapper,
    build_test_loader,
    build_train_loader,
    get_test_dicts,
)
from mask_rcnn_repro.evaluation import ClassificationEvaluator

dataloader = dict(
    train=L(build_train_loader)(
        dataset=L(get_test_dicts)(names="embedded_crops_train"),
        mapper=L(MaskRCNNMapper)(
            is_train=True,
            augmentations=[
                L(T.RandomCrop)(crop_type="relative_range", crop_size=[0.6, 0.6]),
                L(T.Resize)(shape=[96, 96]),
                L(T.RandomFlip)(horizontal=True),
            ],
            image_format="BGR",
        ),
        total_batch_size=64,
        aspect_ratio_grouping=False,
        num_workers=0,
    ),
    test=L(build_test_loader)(
        dataset=L(get_test_dicts)(names="embedded_crops_val"),
        mapper=L(MaskRCNNMapper)(
            is_train=False,
            augmentations=[L(T.Resize)(shape=[96, 96])],
            image_format="BGR",
        ),
        batch_size=64,
        num_workers=0,
    ),
    evaluator=L(ClassificationEvaluator)(dataset_name="${..test.dataset.names}"),
)
