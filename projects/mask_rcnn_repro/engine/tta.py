"""Test-time augmentation as the config's section `train.tta` says."""

from __future__ import annotations

import copy

from omegaconf import DictConfig, OmegaConf
from torch import nn

from mask_rcnn_repro.modeling import TestTimeAugmentation

_PAPER_EDGE = 800
"""Shorter edge of the paper's test images, in pixels."""


def with_tta(cfg: DictConfig, model: nn.Module) -> TestTimeAugmentation:
    """Wraps a model; whether `train.tta.enabled` is set does not matter.

    Args:
        cfg: The model's config.
        model: One that takes images alone, as :func:`~mask_rcnn_repro.build_predictor` gives it.

    Raises:
        ConfigError: See :class:`~mask_rcnn_repro.modeling.TestTimeAugmentation`.
    """
    tta = cfg.train.tta
    return TestTimeAugmentation(
        model,
        sizes=tta_sizes(cfg),
        flip=tta.flip,
        max_size=tta.max_size,
        views_per_batch=tta.views_per_batch,
        keypoint_hflip_indices=OmegaConf.select(
            cfg, "dataloader.train.mapper.keypoint_hflip_indices"
        ),
    )


def tta_sizes(cfg: DictConfig) -> list[int]:
    """Shorter edges of the views: those of `train.tta.sizes`, or as many as the paper has.

    The paper's 400 to 1200 px in steps of 100 are half to one and a half times its 800 px; so they
    are for test images of another size, to which a profile may have scaled them.
    """
    if cfg.train.tta.sizes is not None:
        return list(cfg.train.tta.sizes)
    edge = _PAPER_EDGE
    for augmentation in OmegaConf.select(cfg, "dataloader.test.mapper.augmentations") or []:
        if "short_edge_length" in augmentation:
            lengths = augmentation.short_edge_length
            edge = lengths if isinstance(lengths, int) else max(lengths)
    return [max(1, round(edge * eighths / 8)) for eighths in range(4, 13)]


def with_original_images(cfg: DictConfig) -> DictConfig:
    """A copy of the config whose test images come as they are, and without stored proposals.

    Views are made from the original image: resizing what was resized before would lose detail.
    """
    cfg = copy.deepcopy(cfg)
    mapper = cfg.dataloader.test.mapper
    if mapper.get("augmentations"):
        mapper.augmentations = []
    for key in ("precomputed_proposal_topk", "proposal_files"):
        if mapper.get(key) is not None:
            mapper[key] = None
    return cfg
