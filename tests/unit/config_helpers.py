"""A small config with every section, of light targets, for the tests of the config system."""

from __future__ import annotations

import textwrap
from pathlib import Path

from omegaconf import DictConfig

from mask_rcnn_repro.config import load_config

SAMPLE = textwrap.dedent(
    '''
    """A sample."""
    from types import SimpleNamespace

    import torch
    from detectron2.config import LazyCall as L
    from detectron2.data import transforms as T
    from detectron2.layers import ShapeSpec
    from detectron2.modeling.box_regression import Box2BoxTransform
    from detectron2.modeling.matcher import Matcher
    from detectron2.modeling.meta_arch import GeneralizedRCNN
    from detectron2.modeling.roi_heads import (
        FastRCNNOutputLayers, MaskRCNNConvUpsampleHead, StandardROIHeads,
    )
    from detectron2.solver import WarmupParamScheduler
    from detectron2.solver.build import get_default_optimizer_params
    from fvcore.common.param_scheduler import MultiStepParamScheduler

    model = L(GeneralizedRCNN)(
        backbone=L(torch.nn.Identity)(),
        proposal_generator=L(torch.nn.Identity)(),
        roi_heads=L(StandardROIHeads)(
            num_classes=80,
            batch_size_per_image=64,
            positive_fraction=0.25,
            proposal_matcher=L(Matcher)(
                thresholds=[0.5], labels=[0, 1], allow_low_quality_matches=False
            ),
            box_in_features=["p2", "p3"],
            box_pooler=L(torch.nn.Identity)(),
            box_head=L(torch.nn.Identity)(),
            box_predictor=L(FastRCNNOutputLayers)(
                input_shape=L(ShapeSpec)(channels=8),
                box2box_transform=L(Box2BoxTransform)(weights=[10, 10, 5, 5]),
                num_classes="${..num_classes}",
            ),
            mask_in_features="${.box_in_features}",
            mask_pooler=L(torch.nn.Identity)(),
            mask_head=L(MaskRCNNConvUpsampleHead)(
                input_shape=L(ShapeSpec)(channels=8, width=14, height=14),
                num_classes="${..num_classes}",
                conv_dims=[16, 16],
            ),
        ),
        pixel_mean=[103.53, 116.28, 123.675],
        pixel_std=[1.0, 1.0, 1.0],
        input_format="BGR",
    )
    dataloader = dict(
        train=L(SimpleNamespace)(
            mapper=L(SimpleNamespace)(
                augmentations=[
                    L(T.ResizeShortestEdge)(short_edge_length=800, max_size=1333),
                    L(T.RandomFlip)(horizontal=True),
                ],
                use_instance_mask=True,
                use_keypoint=False,
            ),
            dataset=L(SimpleNamespace)(names="some_train", json=None),
            total_batch_size=16,
        ),
        test=L(SimpleNamespace)(dataset=L(SimpleNamespace)(names="some_val")),
        evaluator=L(SimpleNamespace)(dataset_name="${..test.dataset.names}"),
    )
    optimizer = L(torch.optim.SGD)(
        params=L(get_default_optimizer_params)(weight_decay_norm=0.0), lr=0.02, momentum=0.9
    )
    lr_multiplier = L(WarmupParamScheduler)(
        scheduler=L(MultiStepParamScheduler)(
            values=[1.0, 0.1], milestones=[60], num_updates="${train.max_iter}"
        ),
        warmup_length=0.1,
        warmup_factor=0.001,
    )
    train = dict(max_iter=90, amp=dict(enabled=False))
    '''
)


def write(path: Path, text: str) -> Path:
    """Writes a file with its folders; `text` may be indented."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return path


def sample_file(folder: Path, more: str = "", name: str = "sample.py") -> Path:
    """Writes the sample config, followed by further lines."""
    return write(folder / name, SAMPLE + textwrap.dedent(more))


def load_sample(folder: Path, *overrides: str, more: str = "") -> DictConfig:
    """Writes and loads the sample config."""
    return load_config(sample_file(folder, more), overrides=overrides)
