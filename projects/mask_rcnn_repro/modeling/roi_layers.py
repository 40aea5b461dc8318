"""RoI layers: extract a fixed-size feature map of each RoI (section 3, table 2c).

| layer | RoI in feature cells | bin | value of a bin |
|---|---|---|---|
| ROIPool | rounded | rounded outwards | max of its cells |
| ROIWarpMax, ROIWarpAve | rounded | not rounded | max, mean of n x n bilinear samples |
| ROIAlignMax, ROIAlign | not rounded | not rounded | max, mean of n x n bilinear samples |
| ROIAlignV2Max, ROIAlignV2 | not rounded, shifted by -0.5 cells | not rounded | the same |

The RoI is rounded by :func:`~mask_rcnn_repro.modeling.accel.compiled_roi_layers.round_boxes`.

n is ``sampling_ratio``, 2 in the paper. Positions are in units in which feature (i, j) lies at
(i, j). A bilinear sample at (y, x) is zero outside [-1, H] x [-1, W]. Inside, the position is first
clamped to [0, H - 1] x [0, W - 1]. Zeros count in the mean and in the max.

No layer has a gradient with respect to RoIs.

The layers use compiled loops on the CPU where these apply
(:mod:`~mask_rcnn_repro.modeling.accel.compiled_roi_layers`), and torchvision's operators otherwise.
Results are equal up to the rounding of sums.

Shapes: N images, R RoIs of all images together, C channels, H x W feature map, S bins per side.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
from fvcore.common.registry import Registry
from torch import nn
from torch.nn import functional

from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.modeling.accel.compiled_roi_layers import Form, applies, pool_rois, round_boxes
from mask_rcnn_repro.modeling.accel.deterministic_roi_layers import roi_align, roi_pool

POOLER_REGISTRY = Registry("POOLER")
POOLER_REGISTRY.__doc__ = """
RoI layers, constructed by ``layer(output_size, spatial_scale, sampling_ratio)`` with
``output_size`` a pair (height, width). The module maps features (N, C, H, W) and RoIs (R, 5), rows
(image index, x1, y1, x2, y2) in image pixels, to (R, C, height, width) of the features' dtype.
"""


class RoILayer(nn.Module, ABC):
    """Base class of all RoI layers.

    Args:
        output_size: (height, width) of the output.
        spatial_scale: 1 / stride of the feature map.
        sampling_ratio: Samples per bin side.

    Raises:
        ConfigError: If the layer needs a fixed number of samples and ``sampling_ratio`` < 1.
    """

    fixed_samples = True

    def __init_subclass__(cls, **kwargs: object) -> None:
        """Disables the compiled loops for a subclass with another `forward`, `pool` or `sample`."""
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
                f"{type(self).__name__} got sampling_ratio={sampling_ratio}. It must be at least 1 "
                "(samples per bin side; 2 in the paper)."
            )
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio

    def forward(self, input: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
        """Pools RoIs.

        Coordinates and samples stay float32 (float64 for a float64 map) in mixed precision.
        Rounding them to bfloat16 would move a box edge near 1000 px by up to 2 px, and RoIAlign
        exists to avoid such quantization.

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
        """What the compiled loops compute for this layer; None if they cannot.

        A subclass with its own `forward`, `pool` or `sample` has none unless it defines one.
        """
        return None

    @abstractmethod
    def pool(self, features: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
        """Pools as :meth:`forward`, with features and RoIs of one type, float32 or float64."""

    def extra_repr(self) -> str:
        """Arguments, for printing a model."""
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}"
        )


@POOLER_REGISTRY.register()
class ROIPool(RoILayer):
    """RoIPool of Fast R-CNN (section 3): rounds the RoI and its bins, takes the max of each bin.

    Along x (y likewise) the RoI is the feature cells [a, a + w) with a = round(x1 s) and
    w = max(round(x2 s) - a + 1, 1), where s is the spatial scale and halves are rounded away from
    zero. The cells of both edges belong to it. Bin i of S is the cells
    [a + floor(i w / S), a + ceil((i + 1) w / S)), then clipped to [0, W). Neighboring bins may
    share cells. A bin without cells is zero and has no gradient. The first of equal features gets
    the gradient. ``sampling_ratio`` is ignored.

    This is `torchvision.ops.roi_pool`, which computes x1 s and i (w / S) in the features' type.
    Where (w / S) S rounds up, the last bin has one more cell (float32, S = 7: first at w = 57).
    """

    fixed_samples = False

    def form(self) -> Form:
        """See :class:`RoILayer`."""
        return Form("cells", self.output_size, 0)

    def pool(self, features: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
        """Returns (R, C, height, width); see the class."""
        return roi_pool(features, rois, self.output_size, self.spatial_scale)


class _SamplingLayer(RoILayer):
    """A layer of bilinear samples at the centers of n x n equal parts of each bin."""

    use_max = False  # max of the samples instead of their mean
    half_pixel = False  # samples shifted by -0.5 cells
    rounds_roi = False  # RoIWarp: the RoI is rounded before it is divided into bins

    def __init__(
        self, output_size: tuple[int, int], spatial_scale: float, sampling_ratio: int
    ) -> None:
        super().__init__(output_size, spatial_scale, sampling_ratio)
        self.aligned = self.half_pixel  # name of Detectron2's and torchvision's layers

    def form(self) -> Form:
        """See :class:`RoILayer`."""
        kind: Literal["max", "mean"] = "max" if self.use_max else "mean"
        n = self.sampling_ratio
        return Form(kind, self.output_size, n, self.half_pixel, self.rounds_roi)

    def pool(self, features: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
        """Returns (R, C, height, width); see the class."""
        if not self.rounds_roi:  # RoIAlign
            return self.sample(features, rois, self.spatial_scale)
        boxes = round_boxes(rois[:, 1:], self.spatial_scale)
        return self.sample(features, torch.cat([rois[:, :1], boxes], dim=1), 1.0)

    def sample(self, features: torch.Tensor, rois: torch.Tensor, scale: float) -> torch.Tensor:
        """Aggregates the samples of RoIs (R, 5), whose boxes times ``scale`` are in cells."""
        n, size = self.sampling_ratio, self.output_size
        if not self.use_max:
            return roi_align(features, rois, size, scale, n, self.aligned)
        # the same samples, each as a bin of its own, then the max of those of a bin
        size = (n * size[0], n * size[1])
        return functional.max_pool2d(roi_align(features, rois, size, scale, 1, self.aligned), n)


@POOLER_REGISTRY.register()
class ROIAlign(_SamplingLayer):
    """RoIAlign with averaging (section 3), in the original form without shift or rounding.

    Along x (y likewise) the RoI starts at a = x1 s and has the extent w = max(x2 s - x1 s, 1).
    Sample k of bin i of S is at position a + (i + (k + 1/2) / n) w / S.

    ``sampling_ratio`` 0 takes n = ceil(w / S) along x and likewise along y, as torchvision does.
    """

    fixed_samples = False


@POOLER_REGISTRY.register()
class ROIAlignMax(_SamplingLayer):
    """RoIAlign (:class:`ROIAlign`) with the max of a bin's samples instead of their mean.

    The first of equal samples gets the gradient.
    """

    use_max = True


@POOLER_REGISTRY.register()
class ROIAlignV2(ROIAlign):
    """RoIAlign with Detectron2's half-pixel correction: samples shifted by -0.5 feature cells.

    Feature (i, j) lies at the center of the cell [i, i + 1) x [j, j + 1). The extent is
    w = x2 s - x1 s, without a minimum.
    """

    half_pixel = True


@POOLER_REGISTRY.register()
class ROIAlignV2Max(ROIAlignMax):
    """RoIAlign with half-pixel correction (:class:`ROIAlignV2`), max of a bin's samples."""

    half_pixel = True


@POOLER_REGISTRY.register()
class ROIWarpAve(_SamplingLayer):
    """RoIWarp (section 3; from MNC, Dai et al. 2016) with averaging: rounds the RoI, not its bins.

    Along x (y likewise) the RoI starts at a = round(x1 s) and has the extent
    w = max(round(x2 s) - a, 1), where s is the spatial scale and halves are rounded away from zero.
    It is not :class:`ROIPool`'s range of cells, which has one more. All else is :class:`ROIAlign`:
    sample k of bin i of S is at position a + (i + (k + 1/2) / n) w / S. So the rounding is the only
    difference between the two, as section 3 says. MNC's layer rounds in the same way, but takes its
    samples at other places of a bin (docs/deviations.md).
    """

    rounds_roi = True


@POOLER_REGISTRY.register()
class ROIWarpMax(ROIWarpAve):
    """RoIWarp (:class:`ROIWarpAve`) with the max of a bin's samples instead of their mean."""

    use_max = True
