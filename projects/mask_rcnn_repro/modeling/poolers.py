"""RoI pooler: features of each RoI, from one feature map or from the pyramid level that fits it.

A pooler chooses the level of each RoI. One RoI layer per level extracts the features
(:mod:`~mask_rcnn_repro.modeling.roi_layers`); configs name it by ``pooler_type``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.modeling.poolers import (
    ROIPooler,
    assign_boxes_to_levels,
    convert_boxes_to_pooler_format,
)
from detectron2.structures import Boxes
from torch import nn

from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.modeling.accel.compiled_roi_layers import applies, pool_rois
from mask_rcnn_repro.modeling.roi_layers import POOLER_REGISTRY, RoILayer


class RoIPooler(ROIPooler):
    """Detectron2's pooler with a RoI layer of :data:`POOLER_REGISTRY`.

    With several scales each RoI is read from the level that fits its size (equation 1 of the FPN
    paper): level ``canonical_level`` for boxes of side ``canonical_box_size``.

    Args:
        output_size: Side S of the output.
        scales: 1 / stride of each feature map, from fine to coarse; consecutive powers of 2.
        sampling_ratio: Samples per bin side. The paper's RoIAlign has four samples per bin, so 2.
        pooler_type: Name of the RoI layer.
        canonical_box_size: Side in image pixels.
        canonical_level: log2 of a stride.

    Attributes:
        memory_format: Output format of the compiled loops; None takes that of the features.
            `torch.contiguous_format` saves copies if the output is flattened next.

    Raises:
        ConfigError: For an unknown ``pooler_type``.
    """

    memory_format: torch.memory_format | None = None

    def __init__(
        self,
        output_size: int,
        scales: Sequence[float],
        sampling_ratio: int = 2,
        pooler_type: str = "ROIAlign",
        canonical_box_size: int = 224,
        canonical_level: int = 4,
    ) -> None:
        if pooler_type not in POOLER_REGISTRY:
            allowed = ", ".join(sorted(name for name, _ in POOLER_REGISTRY))
            raise ConfigError(f"pooler_type={pooler_type!r} is unknown; allowed: {allowed}")
        # the base class checks the scales and computes the levels; its layers are replaced
        super().__init__(
            output_size, scales, 0, "ROIAlign", canonical_box_size, canonical_level=canonical_level
        )
        layer = POOLER_REGISTRY.get(pooler_type)
        self.level_poolers = nn.ModuleList(
            layer(self.output_size, scale, sampling_ratio) for scale in scales
        )

    def forward(self, x: list[torch.Tensor], box_lists: list[Boxes]) -> torch.Tensor:
        """Pools the boxes of each image.

        Where the compiled loops apply (on the CPU), they write all levels to the output at once.
        Otherwise the base class pools level by level.

        Args:
            x: (N, C, H, W) features of each scale.
            box_lists: N lists of boxes in image pixels.

        Returns:
            (R, C, S, S), R boxes of all images in their order.
        """
        pooled = self._pool_compiled(x, box_lists)
        return super().forward(x, box_lists) if pooled is None else pooled

    def _pool_compiled(self, maps: Any, box_lists: Any) -> torch.Tensor | None:
        """Pools all levels by compiled loops; returns None where these do not apply."""
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return None
        if not (isinstance(maps, list) and isinstance(box_lists, list)):  # symbolic tracing
            return None
        layers = list(self.level_poolers)
        form, *others = (x.form() if isinstance(x, RoILayer) else None for x in layers)
        if form is None or any(other != form for other in others):
            return None
        if not box_lists or len(maps) != len(layers) or len(box_lists) != len(maps[0]):
            return None
        if maps[0].device.type != "cpu" or not all(type(boxes) is Boxes for boxes in box_lists):
            return None  # boxes are not converted twice on a GPU, which would be waited for
        rois = convert_boxes_to_pooler_format(box_lists)
        if not applies(maps, rois, form):
            return None
        levels = None
        if len(maps) > 1:
            of_canonical = (self.canonical_box_size, self.canonical_level)
            levels = assign_boxes_to_levels(
                box_lists, self.min_level, self.max_level, *of_canonical
            )
        wanted = self.memory_format
        channels_last = None if wanted is None else wanted == torch.channels_last
        scales = [layer.spatial_scale for layer in layers]
        return pool_rois(maps, rois, scales, form, levels, channels_last)
