"""Box branch of the FPN and C5 heads: fully connected layers (figure 4, right)."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import ROI_BOX_HEAD_REGISTRY, FastRCNNConvFCHead


@ROI_BOX_HEAD_REGISTRY.register()
class FCBoxHead(FastRCNNConvFCHead):
    """``num_fc`` layers of ``fc_dim`` units, each with ReLU: (R, C, S, S) -> (R, fc_dim).

    Detectron2's head with one width for all layers, so that a config states it once and what
    follows can refer to it. R may be 0.

    Args:
        input_shape: Channels, height and width of the pooled RoI.
        num_fc: Layers; at least 1.
        fc_dim: Units of each.
    """

    @configurable
    def __init__(self, input_shape: ShapeSpec, *, num_fc: int = 2, fc_dim: int = 1024) -> None:
        super().__init__(input_shape, conv_dims=[], fc_dims=[fc_dim] * num_fc)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Arguments from ``MODEL.ROI_BOX_HEAD``'s ``NUM_FC`` and ``FC_DIM``."""
        return {
            "input_shape": input_shape,
            "num_fc": cfg.MODEL.ROI_BOX_HEAD.NUM_FC,
            "fc_dim": cfg.MODEL.ROI_BOX_HEAD.FC_DIM,
        }
