"""RoI layers: cut each RoI out of one feature map, at a fixed size (section 3, table 2c).

| layer | RoI in feature cells | bin | value of a bin |
|---|---|---|---|
| ROIPool | rounded | rounded outwards | max of its cells |
| ROIWarpMax, ROIWarpAve | rounded | not rounded | max, mean of n x n bilinear samples |
| ROIAlignMax, ROIAlign | not rounded | not rounded | max, mean of n x n bilinear samples |
| ROIAlignV2Max, ROIAlignV2 | the same, moved by half a cell | not rounded | the same |

n is ``sampling_ratio``, 2 in the paper. A bilinear sample at position (y, x), in units in which
feature (i, j) lies at (i, j), is zero beyond [-1, H] x [-1, W]; within, the position is first
clamped to [0, H - 1] x [0, W - 1]. A zero takes part in the mean and in the max.

No layer has a gradient with respect to RoIs.

On the CPU the layers are computed by compiled loops
(:mod:`~mask_rcnn_repro.modeling.accel.roi_layers`) where those apply, else, and everywhere else, by
torchvision's operators: the same numbers but for the rounding of sums.

Shapes: N images, R RoIs of all images together, C channels, H x W feature map, S bins a side.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
from fvcore.common.registry import Registry
from torch import nn
from torch.nn import functional
from torchvision.ops import roi_align, roi_pool

from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.modeling.accel.roi_layers import Form, applies, pool_rois, roi_pool_cells

POOLER_REGISTRY = Registry("POOLER")
POOLER_REGISTRY.__doc__ = """
RoI layers. Called as ``layer(output_size, spatial_scale, sampling_ratio)`` with ``output_size`` a
pair (height, width); the module maps a feature map (N, C, H, W) and RoIs (R, 5), rows
(image index, x1, y1, x2, y2) in image pixels, to (R, C, height, width) of the map's dtype.
"""


class RoILayer(nn.Module, ABC):
    """What all layers share: arguments, precision.

    Args:
        output_size: (height, width) of the output.
        spatial_scale: 1 / stride of the feature map.
        sampling_ratio: Samples per bin side.

    Raises:
        ConfigError: If the layer needs a fixed number of samples and ``sampling_ratio`` < 1.
    """

    fixed_samples = True

    def __init_subclass__(cls, **kwargs: object) -> None:
        """A layer that changes what is computed no longer has its base class's form."""
        super().__init_subclass__(**kwargs)
        changed = {"forward", "pool", "sample"} & set(vars(cls))
        if changed and "form" not in vars(cls):
            cls.form = RoILayer.form  # type: ignore[method-assign]

    def __init__(
        self, output_size: tuple[int, int], spatial_scale: float, sampling_ratio: int
    ) -> None:
        super().__init__()
        if self.fixed_samples and sampling_ratio < 1:
            raise ConfigError(
                f"{type(self).__name__} got sampling_ratio={sampling_ratio}; it takes as many "
                "samples in every bin, so at least 1 per bin side (the paper: 2)"
            )
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio

    def forward(self, input: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
        """Pools RoIs.

        Coordinates and samples stay in float32 (float64 for a float64 map) in mixed precision.
        Rounding them to the features' bfloat16 moves a box edge near 1000 px by up to 2 px, the
        very quantisation that RoIAlign is there to avoid.

        Args:
            input: (N, C, H, W) features.
            rois: (R, 5) image index and XYXY box in image pixels; R may be 0.

        Returns:
            (R, C, height, width) of the input's dtype; on the CPU in channels_last memory format
            if the input is.
        """
        form = self.form()
        if form is not None and applies([input], rois, form):
            return pool_rois([input], rois, [self.spatial_scale], form)
        features = input.to(torch.promote_types(input.dtype, torch.float32))
        return self.pool(features, rois.detach().to(features.dtype)).to(input.dtype)

    def form(self) -> Form | None:
        """What the compiled loops have to compute for this layer; None: they cannot.

        A subclass that has its own `forward`, `pool` or `sample` has none unless it says one.
        """
        return None

    @abstractmethod
    def pool(self, features: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
        """What :meth:`forward` does, for features and RoIs of one type, float32 or float64."""

    def extra_repr(self) -> str:
        """The arguments, for printing a model."""
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}"
        )


@POOLER_REGISTRY.register()
class ROIPool(RoILayer):
    """RoIPool of Fast R-CNN (section 3): rounds the RoI and its bins, takes the max of each bin.

    Along x (y likewise) the RoI is the feature cells [a, a + w) with a = round(x1 s) and
    w = max(round(x2 s) - a + 1, 1), s the spatial scale, halves rounded away from zero; so both
    edges' cells belong to it. Bin i of S is the cells [a + floor(i w / S), a + ceil((i + 1) w / S))
    clipped to [0, W): neighbouring bins may share cells, and nothing is clipped before the bins
    are cut. A bin without cells is zero, without gradient; of equal features the first counts.
    ``sampling_ratio`` is ignored.

    This is `torchvision.ops.roi_pool`, which computes x1 s and i (w / S) in the features' type:
    where (w / S) S rounds up, the last bin has one more cell (float32, S = 7: first at w = 57).
    """

    fixed_samples = False

    def form(self) -> Form:
        """See :class:`RoILayer`."""
        return Form("cells", self.output_size, 0)

    def pool(self, features: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
        """Returns (R, C, height, width); see the class."""
        return roi_pool(features, rois, self.output_size, self.spatial_scale)


class _SamplingLayer(RoILayer):
    """A layer of bilinear samples at the middles of n x n equal parts of each bin.

    A subclass says which rectangle the RoI is (``half_pixel``, ``rounded``: to RoIPool's cells),
    and whether samples are averaged or their max is taken (``use_max``).
    """

    use_max = False
    half_pixel = False
    rounded = False

    def __init__(
        self, output_size: tuple[int, int], spatial_scale: float, sampling_ratio: int
    ) -> None:
        super().__init__(output_size, spatial_scale, sampling_ratio)
        self.aligned = self.half_pixel  # named as in Detectron2's and torchvision's layers

    def form(self) -> Form:
        """See :class:`RoILayer`."""
        kind: Literal["max", "mean"] = "max" if self.use_max else "mean"
        n = self.sampling_ratio
        return Form(kind, self.output_size, n, self.half_pixel, self.rounded)

    def pool(self, features: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
        """Returns (R, C, height, width); see the class."""
        if not self.rounded:
            return self.sample(features, rois, self.spatial_scale)
        start, size = roi_pool_cells(rois[:, 1:], self.spatial_scale)
        return self.sample(features, torch.cat([rois[:, :1], start, start + size], dim=1), 1.0)

    def sample(self, features: torch.Tensor, rois: torch.Tensor, scale: float) -> torch.Tensor:
        """Aggregates the samples in RoIs (R, 5), whose boxes times ``scale`` are in cells."""
        n, size = self.sampling_ratio, self.output_size
        if not self.use_max:
            return roi_align(features, rois, size, scale, n, self.aligned)
        # The same samples one by one, as bins of their own, then the max of those of a bin.
        size = (n * size[0], n * size[1])
        return functional.max_pool2d(roi_align(features, rois, size, scale, 1, self.aligned), n)


@POOLER_REGISTRY.register()
class ROIAlign(_SamplingLayer):
    """RoIAlign with averaging (section 3), in the original, unshifted form: nothing is rounded.

    Along x (y likewise) the RoI begins at a = x1 s and has the extent w = max(x2 s - x1 s, 1).
    Sample k of bin i of S is at position a + (i + (k + 1/2) / n) w / S.

    ``sampling_ratio`` 0 takes n = ceil(w / S) along x and likewise along y, as torchvision does.
    """

    fixed_samples = False


@POOLER_REGISTRY.register()
class ROIAlignMax(_SamplingLayer):
    """RoIAlign (:class:`ROIAlign`) with the max of a bin's samples instead of their mean.

    Of equal samples the first has the gradient.
    """

    use_max = True


@POOLER_REGISTRY.register()
class ROIAlignV2(ROIAlign):
    """RoIAlign with Detectron2's half-pixel correction: samples shifted by -0.5 feature cells.

    Feature (i, j) stands for the cell [i, i + 1) x [j, j + 1), whose middle is where it lies. The
    extent is w = x2 s - x1 s, not at least 1.
    """

    half_pixel = True


@POOLER_REGISTRY.register()
class ROIAlignV2Max(ROIAlignMax):
    """RoIAlign with half-pixel correction (:class:`ROIAlignV2`), max of a bin's samples."""

    half_pixel = True


@POOLER_REGISTRY.register()
class ROIWarpAve(_SamplingLayer):
    """RoIWarp (section 3; from MNC, Dai et al. 2016) with averaging: rounds the RoI, not its bins.

    Along x (y likewise) the RoI is the feature cells [a, a + w) of :class:`ROIPool`. They are cut
    into S equal bins; samples are at the middles of n equal parts of a bin. Cell i is [i, i + 1)
    and its feature lies in its middle, so sample k of bin i is at position
    a + (i + (k + 1/2) / n) w / S - 1/2.

    Cells beyond the map are not clipped away: a box that ends at the map's edge, x2 s = W, has the
    cell W in it, as in RoIPool, where that cell makes the last bin shorter or empty.
    """

    half_pixel = True
    rounded = True


@POOLER_REGISTRY.register()
class ROIWarpMax(ROIWarpAve):
    """RoIWarp (:class:`ROIWarpAve`) with the max of a bin's samples; of equal ones the first."""

    use_max = True
