"""Test-time augmentation, as set in the section `train.tta` of a config."""

from __future__ import annotations

import copy

from omegaconf import DictConfig, OmegaConf
from torch import nn

from mask_rcnn_repro.modeling import TestTimeAugmentation

_PAPER_EDGE = 800  # shorter edge of the paper's test images, in pixels


def with_tta(cfg: DictConfig, model: nn.Module) -> TestTimeAugmentation:
    """Wraps a model with test-time augmentation. Ignores `train.tta.enabled`.

    Args:
        cfg: The model's config.
        model: Of :func:`~mask_rcnn_repro.build_predictor`. With `train.tta.average_boxes` one that
            reads stored proposals.

    Raises:
        ConfigError: See :class:`~mask_rcnn_repro.modeling.TestTimeAugmentation`.
    """
    tta = cfg.train.tta
    key = "dataloader.train.mapper.keypoint_hflip_indices"
    return TestTimeAugmentation(
        model,
        sizes=tta_sizes(cfg),
        flip=tta.flip,
        max_size=tta.max_size,
        views_per_batch=tta.views_per_batch,
        keypoint_hflip_indices=OmegaConf.select(cfg, key),
        vote_iou=tta.vote_iou,
        average_boxes=tta.average_boxes,
    )


def tta_sizes(cfg: DictConfig) -> list[int]:
    """Returns the shorter edges of the views in pixels: `train.tta.sizes`, or nine as in the paper.

    The paper's 400 to 1200 px are 0.5 to 1.5 times its 800 px. Test images of another size have
    views with the same factors.
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
    """Returns a copy of the config that loads original test images.

    Views are resized from the original image, since resizing twice loses detail. Stored proposals
    are loaded only for `train.tta.average_boxes`.
    """
    cfg = copy.deepcopy(cfg)
    mapper = cfg.dataloader.test.mapper
    if mapper.get("augmentations"):
        mapper.augmentations = []
    for key in ("precomputed_proposal_topk", "proposal_files"):
        if mapper.get(key) is not None and not cfg.train.tta.average_boxes:
            mapper[key] = None
    return cfg
