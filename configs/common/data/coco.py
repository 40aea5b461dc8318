"""COCO `trainval35k` -> `minival`, shorter edge 800 px (section 3.1)."""

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
        dataset=L(get_training_dicts)(names="coco_trainval35k"),
        mapper=L(MaskRCNNMapper)(
            is_train=True,
            augmentations=[
                # Flips and the maximum side of 1333 px are Detectron's, not stated in the paper.
                L(T.ResizeShortestEdge)(
                    short_edge_length=[800], max_size=1333, sample_style="choice"
                ),
                L(T.RandomFlip)(horizontal=True),
            ],
            image_format="BGR",
            use_instance_mask=True,
        ),
        total_batch_size=16,
        num_workers=4,
    ),
    test=L(build_test_loader)(
        dataset=L(get_test_dicts)(names="coco_minival"),
        mapper=L(MaskRCNNMapper)(
            is_train=False,
            augmentations=[
                L(T.ResizeShortestEdge)(
                    short_edge_length=[800], max_size=1333, sample_style="choice"
                ),
            ],
            image_format="BGR",
        ),
        num_workers=4,
    ),
    evaluator=L(build_evaluator)(dataset_name="${..test.dataset.names}"),
)
