"""RoI pooler: features of each RoI, from one feature map or from the pyramid level that fits it.

A pooler chooses the level of each RoI. One RoI layer per level extracts the features
(:mod:`~mask_rcnn_repro.modeling.roi_layers`); configs name it by ``pooler_type``.
"""

from __future__ import annotations

from collections.abc import Sequence

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
        canonical_level: Log2 of a stride.

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

        Where the compiled loops apply (on the CPU), they write all levels to the output at once. On
        a GPU the boxes are sorted by level, which is waited for once. Otherwise the base class
        pools level by level.

        Args:
            x: (N, C, H, W) features of each scale.
            box_lists: N lists of boxes in image pixels.

        Returns:
            (R, C, S, S), R boxes of all images in their order.
        """
        pooled = None
        # symbolic tracing has no lists
        plain = isinstance(x, list) and isinstance(box_lists, list) and len(box_lists) > 0
        if plain and not (torch.compiler.is_compiling() or torch.jit.is_tracing()):
            fits = len(x) == len(self.level_poolers) and len(box_lists) == len(x[0])
            if fits and all(type(boxes) is Boxes for boxes in box_lists):
                by_device = {"cpu": self._pool_compiled, "cuda": self._pool_sorted}
                pooled = by_device.get(x[0].device.type, lambda *_: None)(x, box_lists)
        return super().forward(x, box_lists) if pooled is None else pooled

    def _pool_sorted(self, maps: list[torch.Tensor], box_lists: list[Boxes]) -> torch.Tensor:
        """Pools as the base class, which waits for the GPU twice and again for each level."""
        images = [x.tensor.new_full((len(x), 1), i) for i, x in enumerate(box_lists)]
        boxes = torch.cat([x.tensor for x in box_lists])
        rois = torch.cat([torch.cat(images), boxes], dim=1)
        if len(maps) == 1:
            pooled: torch.Tensor = self.level_poolers[0](maps[0], rois)
            return pooled
        levels, order = self._levels(box_lists).sort(stable=True)
        starts = torch.arange(1, len(maps), device=levels.device)
        rois = rois[order].tensor_split(torch.searchsorted(levels, starts).tolist())
        parts = zip(self.level_poolers, maps, rois, strict=True)
        pooled = torch.cat([layer(x, own) for layer, x, own in parts])
        return torch.empty_like(pooled).index_copy(0, order, pooled)

    def _levels(self, box_lists: list[Boxes]) -> torch.Tensor:
        of_canonical = (self.canonical_box_size, self.canonical_level)
        return assign_boxes_to_levels(box_lists, self.min_level, self.max_level, *of_canonical)

    def _pool_compiled(
        self, maps: list[torch.Tensor], box_lists: list[Boxes]
    ) -> torch.Tensor | None:
        """Pools all levels by compiled loops; returns None where these do not apply."""
        layers = list(self.level_poolers)
        form, *others = (x.form() if isinstance(x, RoILayer) else None for x in layers)
        if form is None or any(other != form for other in others):
            return None
        rois = convert_boxes_to_pooler_format(box_lists)
        if not applies(maps, rois, form):
            return None
        levels = self._levels(box_lists) if len(maps) > 1 else None
        wanted = self.memory_format
        channels_last = None if wanted is None else wanted == torch.channels_last
        scales = [layer.spatial_scale for layer in layers]
        return pool_rois(maps, rois, scales, form, levels, channels_last)
