"""RoI heads of the FPN and C5 models: box, mask and keypoint branches with a pooler each."""

from __future__ import annotations

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

from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.modeling.box_head import FCBoxHead
from mask_rcnn_repro.modeling.box_predictor import BoxPredictor
from mask_rcnn_repro.modeling.poolers import RoIPooler
from mask_rcnn_repro.modeling.roi_heads.bounded import BoundedInference


def _build_pooler(
    head: CfgNode, in_features: list[str], input_shape: dict[str, ShapeSpec]
) -> RoIPooler:
    return RoIPooler(
        output_size=head.POOLER_RESOLUTION,
        scales=[1 / input_shape[name].stride for name in in_features],
        sampling_ratio=head.POOLER_SAMPLING_RATIO,
        pooler_type=head.POOLER_TYPE,
    )


def _pooled_shape(
    head: CfgNode, in_features: list[str], input_shape: dict[str, ShapeSpec]
) -> ShapeSpec:
    channels = {input_shape[name].channels for name in in_features}
    if len(channels) != 1:
        raise ConfigError(
            f"features {in_features} share one head and need equal channels; got {sorted(channels)}"
        )
    side = head.POOLER_RESOLUTION
    return ShapeSpec(channels=channels.pop(), height=side, width=side)


@ROI_HEADS_REGISTRY.register()
class PaperStandardROIHeads(BoundedInference, StandardROIHeads):
    """Detectron2's heads with exchangeable parts (figure 4, right).

    From LazyCall the parts are given; by yacs name Detectron2's keys are read, and ``POOLER_TYPE``
    is looked up in our :data:`~mask_rcnn_repro.modeling.poolers.POOLER_REGISTRY`. Masks and
    keypoints are predicted for the final boxes (section 3.1). Images without objects, empty
    proposals and empty detections are allowed.

    Arguments are Detectron2's: ``box_in_features``, ``box_pooler``, ``box_head``,
    ``box_predictor``, the like for ``mask_`` and ``keypoint_`` (absent: no such branch), and those
    of ``ROIHeads``: ``num_classes``, ``batch_size_per_image``, ``positive_fraction``,
    ``proposal_matcher``, ``proposal_append_gt``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if isinstance(self.box_head, FCBoxHead) and isinstance(self.box_pooler, RoIPooler):
            self.box_pooler.memory_format = torch.contiguous_format  # is flattened next

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        features = list(cfg.MODEL.ROI_HEADS.IN_FEATURES)
        head = cfg.MODEL.ROI_BOX_HEAD
        box_head = build_box_head(cfg, _pooled_shape(head, features, input_shape))
        return {
            "box_in_features": features,
            "box_pooler": _build_pooler(head, features, input_shape),
            "box_head": box_head,
            "box_predictor": BoxPredictor(cfg, box_head.output_shape),
        }

    @classmethod
    def _init_mask_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        if not cfg.MODEL.MASK_ON:
            return {}
        features = list(cfg.MODEL.ROI_HEADS.IN_FEATURES)
        head = cfg.MODEL.ROI_MASK_HEAD
        return {
            "mask_in_features": features,
            "mask_pooler": _build_pooler(head, features, input_shape),
            "mask_head": build_mask_head(cfg, _pooled_shape(head, features, input_shape)),
        }

    @classmethod
    def _init_keypoint_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        if not cfg.MODEL.KEYPOINT_ON:
            return {}
        features = list(cfg.MODEL.ROI_HEADS.IN_FEATURES)
        head = cfg.MODEL.ROI_KEYPOINT_HEAD
        return {
            "keypoint_in_features": features,
            "keypoint_pooler": _build_pooler(head, features, input_shape),
            "keypoint_head": build_keypoint_head(cfg, _pooled_shape(head, features, input_shape)),
        }
