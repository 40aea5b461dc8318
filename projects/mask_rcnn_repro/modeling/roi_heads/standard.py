"""RoI heads of the FPN and C5 models: box, mask and keypoint branches with a pooler each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import (
    StandardROIHeads,
    build_box_head,
    build_keypoint_head,
    build_mask_head,
)
from torch import nn

from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.modeling.box_head import BoxPredictor, FCBoxHead
from mask_rcnn_repro.modeling.poolers import RoIPooler
from mask_rcnn_repro.modeling.roi_heads.bounded_memory import BoundedInference


def _branch(
    name: str,
    cfg: CfgNode,
    input_shape: dict[str, ShapeSpec],
    build_head: Callable[[CfgNode, ShapeSpec], nn.Module],
) -> dict[str, Any]:
    """Features, pooler and head of a branch: ``box``, ``mask`` or ``keypoint``."""
    features, head = list(cfg.MODEL.ROI_HEADS.IN_FEATURES), cfg.MODEL[f"ROI_{name.upper()}_HEAD"]
    channels = {input_shape[feature].channels for feature in features}
    if len(channels) != 1:
        raise ConfigError(
            f"features {features} share one head and need equal channels; got {sorted(channels)}"
        )
    side = head.POOLER_RESOLUTION
    pooler = RoIPooler(
        output_size=side,
        scales=[1 / input_shape[feature].stride for feature in features],
        sampling_ratio=head.POOLER_SAMPLING_RATIO,
        pooler_type=head.POOLER_TYPE,
    )
    shape = ShapeSpec(channels=channels.pop(), height=side, width=side)
    return {
        f"{name}_in_features": features,
        f"{name}_pooler": pooler,
        f"{name}_head": build_head(cfg, shape),
    }


@ROI_HEADS_REGISTRY.register()
class PaperStandardROIHeads(BoundedInference, StandardROIHeads):
    """Detectron2's heads with exchangeable parts (figure 4, right).

    A LazyConfig passes the parts. From a yacs config they are built by Detectron2's keys, where
    ``POOLER_TYPE`` is a name in :data:`~mask_rcnn_repro.modeling.roi_layers.POOLER_REGISTRY`. Masks
    and keypoints are predicted for the final boxes (section 3.1). Images without objects, empty
    proposals and empty detections are allowed.

    Arguments are Detectron2's: ``box_in_features``, ``box_pooler``, ``box_head``,
    ``box_predictor``, the same for ``mask_`` and ``keypoint_`` (optional branches), and those of
    ``ROIHeads``: ``num_classes``, ``batch_size_per_image``, ``positive_fraction``,
    ``proposal_matcher``, ``proposal_append_gt``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if isinstance(self.box_head, FCBoxHead) and isinstance(self.box_pooler, RoIPooler):
            self.box_pooler.memory_format = torch.contiguous_format  # flattened next

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        branch = _branch("box", cfg, input_shape, build_box_head)
        return {**branch, "box_predictor": BoxPredictor(cfg, branch["box_head"].output_shape)}

    @classmethod
    def _init_mask_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        return _branch("mask", cfg, input_shape, build_mask_head) if cfg.MODEL.MASK_ON else {}

    @classmethod
    def _init_keypoint_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        if not cfg.MODEL.KEYPOINT_ON:
            return {}
        return _branch("keypoint", cfg, input_shape, build_keypoint_head)
