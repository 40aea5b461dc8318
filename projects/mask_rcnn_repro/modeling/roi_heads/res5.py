"""RoI heads of the C4 models: stage 5 of the ResNet on each RoI (figure 4, left)."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import Res5ROIHeads, ROIHeads, build_mask_head

from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.modeling.backbone.resnet import build_res5, res5_shape, resnet_width_arguments
from mask_rcnn_repro.modeling.box_head import BoxPredictor
from mask_rcnn_repro.modeling.poolers import RoIPooler
from mask_rcnn_repro.modeling.roi_heads.bounded_memory import BoundedInference


@ROI_HEADS_REGISTRY.register()
class PaperRes5ROIHeads(BoundedInference, Res5ROIHeads):
    """Detectron2's C4 heads with the paper's geometry and exchangeable parts.

    The paper pools 7x7 and uses stride 1 in the first block of stage 5. Detectron2 pools 14x14 and
    uses stride 2. A LazyConfig passes the parts. A yacs config sets
    ``MODEL.ROI_BOX_HEAD.RES5_RESOLUTION`` (7) and ``RES5_STRIDE`` (1), and ``POOLER_RESOLUTION`` is
    ignored.

    The box branch averages the 7x7 features and predicts class-specific boxes. The mask branch uses
    the same features. Images without objects, empty proposals and empty detections are allowed.

    Arguments are Detectron2's: ``in_features`` (one), ``pooler``, ``res5``
    (:func:`~mask_rcnn_repro.modeling.build_res5`), ``box_predictor``, ``mask_head`` (None
    omits the mask branch), and those of ``ROIHeads``: ``num_classes``,
    ``batch_size_per_image``, ``positive_fraction``, ``proposal_matcher``, ``proposal_append_gt``.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Arguments from Detectron2's yacs keys and the two named above.

        Raises:
            ConfigError: For several features, or with keypoints.
        """
        box_head, in_features = cfg.MODEL.ROI_BOX_HEAD, list(cfg.MODEL.ROI_HEADS.IN_FEATURES)
        if len(in_features) != 1 or cfg.MODEL.KEYPOINT_ON:
            raise ConfigError(
                f"PaperRes5ROIHeads takes one feature map and no keypoints; got"
                f" MODEL.ROI_HEADS.IN_FEATURES={in_features},"
                f" MODEL.KEYPOINT_ON={cfg.MODEL.KEYPOINT_ON}"
            )
        widths = resnet_width_arguments(cfg)
        shape = res5_shape(
            widths["depth"],
            resolution=box_head.RES5_RESOLUTION,
            first_stride=box_head.RES5_STRIDE,
            res2_out_channels=widths["res2_out_channels"],
            width_multiplier=widths["width_multiplier"],
        )
        return {
            **ROIHeads.from_config(cfg),
            "in_features": in_features,
            "pooler": RoIPooler(
                output_size=box_head.RES5_RESOLUTION,
                scales=[1 / input_shape[in_features[0]].stride],
                sampling_ratio=box_head.POOLER_SAMPLING_RATIO,
                pooler_type=box_head.POOLER_TYPE,
            ),
            "res5": build_res5(**widths, first_stride=box_head.RES5_STRIDE),
            "box_predictor": BoxPredictor(cfg, ShapeSpec(channels=shape.channels)),
            "mask_head": build_mask_head(cfg, shape) if cfg.MODEL.MASK_ON else None,
        }
