"""The embedded data set (docs/embedded_data.md), at 128 px, for CPUs."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from mask_rcnn_repro.data import (
    MaskRCNNMapper,
    build_test_loader,
    build_train_loader,
    get_test_dicts,
    get_training_dicts,
)
from mask_rcnn_repro.evaluation import build_evaluator

dataloader = dict(
    train=L(build_train_loader)(
        dataset=L(get_training_dicts)(names="embedded_train"),
        mapper=L(MaskRCNNMapper)(
            is_train=True,
            augmentations=[
                L(T.ResizeShortestEdge)(
                    short_edge_length=[128], max_size=214, sample_style="choice"
                ),
                L(T.RandomFlip)(horizontal=True),
            ],
            image_format="BGR",
            use_instance_mask=True,
        ),
        total_batch_size=8,
        num_workers=1,
    ),
    test=L(build_test_loader)(
        dataset=L(get_test_dicts)(names="embedded_val"),
        mapper=L(MaskRCNNMapper)(
            is_train=False,
            augmentations=[
                L(T.ResizeShortestEdge)(
                    short_edge_length=[128], max_size=214, sample_style="choice"
                ),
            ],
            image_format="BGR",
        ),
        num_workers=1,
    ),
    evaluator=L(build_evaluator)(dataset_name="${..test.dataset.names}"),
)
