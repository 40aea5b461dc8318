"""RoI poolers: features of each RoI, from one feature map or from the pyramid level that fits it.

A pooler chooses the level of each RoI; a RoI layer, one per level, cuts the RoI out of its map.
Layers are in :data:`~mask_rcnn_repro.modeling.roi_layers.POOLER_REGISTRY`, named in configs by
``pooler_type``.
"""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.modeling.poolers import ROIPooler
from torch import nn

from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.modeling.roi_layers import POOLER_REGISTRY


class RoIPooler(ROIPooler):
    """Detectron2's pooler with the RoI layer taken from :data:`POOLER_REGISTRY`.

    With several scales each RoI is read from the level that fits its size (equation 1 of the FPN
    paper): level ``canonical_level`` for boxes of side ``canonical_box_size``.

    Args:
        output_size: Side S of the output.
        scales: 1 / stride of each feature map, from fine to coarse; consecutive powers of 2.
        sampling_ratio: Samples per bin side. The paper's RoIAlign takes four samples a bin, so 2.
        pooler_type: Name of the RoI layer.
        canonical_box_size: In image pixels.
        canonical_level: log2 of a stride.

    Raises:
        ConfigError: For an unknown ``pooler_type``.
    """

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
        # The base class checks the scales and works out the levels; its own layers are replaced.
        super().__init__(
            output_size, scales, 0, "ROIAlign", canonical_box_size, canonical_level=canonical_level
        )
        layer = POOLER_REGISTRY.get(pooler_type)
        self.level_poolers = nn.ModuleList(
            layer(self.output_size, scale, sampling_ratio) for scale in scales
        )
