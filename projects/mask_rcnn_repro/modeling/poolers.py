"""RoI poolers: features of each RoI, from one feature map or from the pyramid level that fits it.

A pooler (:class:`RoIPooler`) chooses the level of each RoI; a RoI layer, one per level, cuts the
RoI out of its map. Layers are in :data:`POOLER_REGISTRY`, named in configs by ``pooler_type``.

Shapes: N images, R RoIs of all images together, C channels, S output side.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.layers import ROIAlign as _ROIAlign
from detectron2.modeling.poolers import ROIPooler
from fvcore.common.registry import Registry
from torch import nn

from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.modeling.roi_align_separable import is_profitable, roi_align_separable

POOLER_REGISTRY = Registry("POOLER")
POOLER_REGISTRY.__doc__ = """
RoI layers. Called as ``layer(output_size, spatial_scale, sampling_ratio)`` with ``output_size`` a
pair (height, width); the module maps a feature map (N, C, H, W) and RoIs (R, 5), rows
(image index, x1, y1, x2, y2) in image pixels, to (R, C, height, width) of the map's dtype.
"""


def _at_least_float32(features: torch.Tensor) -> torch.Tensor:
    return features.to(torch.promote_types(features.dtype, torch.float32))


@POOLER_REGISTRY.register()
class ROIAlign(_ROIAlign):
    """RoIAlign with averaging (section 3), in the original, unshifted form.

    Differs from Detectron2's in mixed precision: coordinates stay in float32 there. Rounding them
    to the features' bfloat16 moves a box edge near 1000 px by up to 2 px, the very quantisation
    that RoIAlign is there to avoid.

    Args:
        output_size: (height, width) of the output.
        spatial_scale: 1 / stride of the feature map.
        sampling_ratio: Samples per bin side; 0 adapts to the RoI's size.
    """

    aligned = False

    def __init__(
        self, output_size: tuple[int, int], spatial_scale: float, sampling_ratio: int
    ) -> None:
        super().__init__(output_size, spatial_scale, sampling_ratio, aligned=type(self).aligned)

    def forward(self, input: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
        """Pools RoIs; sampled in float32 or better, returned in the input's dtype.

        Args:
            input: (N, C, H, W) features.
            rois: (R, 5) image index and XYXY box in image pixels; R may be 0.

        Returns:
            (R, C, height, width).
        """
        features = _at_least_float32(input)
        pooled: torch.Tensor
        if is_profitable(features, rois, self.output_size, self.sampling_ratio):
            pooled = roi_align_separable(
                features,
                rois,
                self.output_size,
                self.spatial_scale,
                self.sampling_ratio,
                self.aligned,
            )
        else:
            pooled = super().forward(features, rois)
        return pooled.to(input.dtype)


@POOLER_REGISTRY.register()
class ROIAlignV2(ROIAlign):
    """RoIAlign with Detectron2's half-pixel correction: samples shifted by -0.5 feature cells."""

    aligned = True


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
