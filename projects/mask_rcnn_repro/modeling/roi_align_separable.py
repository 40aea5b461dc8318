"""RoIAlign with averaging as two matrix products, for small feature maps on the CPU.

Averaging bilinear samples is linear and separates into rows and columns: with A_y (S, H) holding
the mean weight of each feature row in each output row, and A_x likewise, ``out = A_y F A_x^T``.
That is the same sum as torchvision's kernel in another order (equal up to rounding), and several
times faster there, most of all backwards, as long as the map is small: the cost grows with its
area, not with the RoI's.

Shapes: N images, R RoIs, C channels, H x W feature map, S output side.
"""

from __future__ import annotations

import torch

# Measured break-even is near 100 x 100 cells for 14 x 14 outputs; well below it the gain is large,
# at 64 x 107 cells still an eighth of a whole training step.
MAX_CELLS = 96 * 96

# Floats of the intermediate (R, S, W, C); beyond it memory, not time, decides.
MAX_INTERMEDIATE = 64 * 2**20


def is_profitable(
    features: torch.Tensor, rois: torch.Tensor, output_size: tuple[int, int], sampling_ratio: int
) -> bool:
    """Whether :func:`roi_align_separable` applies to its arguments and is the faster way."""
    channels, height, width = features.shape[1:]
    return (
        features.device.type == "cpu"
        and sampling_ratio > 0
        and 0 < height * width <= MAX_CELLS
        and len(rois) * output_size[0] * width * channels <= MAX_INTERMEDIATE
    )


def roi_align_separable(
    features: torch.Tensor,
    rois: torch.Tensor,
    output_size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> torch.Tensor:
    """Computes `torchvision.ops.roi_align` (section 3, "RoIAlign"; averaging).

    Args:
        features: (N, C, H, W), any floating type; differentiable.
        rois: (R, 5) rows (image index, x1, y1, x2, y2) in image pixels; R may be 0. No gradient
            flows to them, as in torchvision.
        output_size: (rows, columns) of the output.
        spatial_scale: 1 / stride.
        sampling_ratio: Samples per bin side, at least 1.
        aligned: Half-pixel correction (Detectron2's `ROIAlignV2`).

    Returns:
        (R, C, rows, columns) in the features' type.
    """
    if torch.is_autocast_enabled("cpu"):
        with torch.autocast("cpu", enabled=False):  # bfloat16 weights would move the samples
            return roi_align_separable(
                features, rois, output_size, spatial_scale, sampling_ratio, aligned
            )
    rows, columns = output_size
    channels, height, width = features.shape[1:]
    with torch.no_grad():
        boxes = rois[:, 1:].to(features.dtype) * spatial_scale - (0.5 if aligned else 0.0)
        size = boxes[:, 2:] - boxes[:, :2]
        if not aligned:  # the original form gives every RoI at least one cell
            size = size.clamp(min=1.0)
        a_x = _bin_weights(boxes[:, 0], size[:, 0], columns, sampling_ratio, width)
        a_y = _bin_weights(boxes[:, 1], size[:, 1], rows, sampling_ratio, height)
        image_index = rois[:, 0].long()
    parts, order = [], []
    for image, of_image in enumerate(features.permute(0, 2, 3, 1).unbind()):
        chosen = torch.nonzero(image_index == image).squeeze(1)
        if not len(chosen):
            continue
        by_row = of_image.reshape(height, width * channels)
        half = a_y[chosen].reshape(-1, height) @ by_row
        half = half.view(len(chosen), rows, width, channels)
        parts.append(a_x[chosen].unsqueeze(1) @ half)  # (r, rows, columns, C)
        order.append(chosen)
    if not parts:
        return features.sum() * 0 + features.new_zeros((0, channels, rows, columns))
    out = torch.cat(parts)
    inverse = torch.argsort(torch.cat(order))
    if bool((inverse.diff() < 0).any()):  # a pooler's RoIs are in the images' order already
        out = out[inverse]
    return out.permute(0, 3, 1, 2)


def _bin_weights(
    start: torch.Tensor, size: torch.Tensor, bins: int, samples: int, cells: int
) -> torch.Tensor:
    """Returns (R, bins, cells): the mean bilinear weight of each cell in each bin.

    A sample outside [-1, cells] counts as zero, one outside [0, cells - 1] takes the border cell's
    value, as in torchvision.
    """
    grid = torch.arange(bins * samples, dtype=start.dtype) + 0.5
    position = start[:, None] + grid * size[:, None] / (bins * samples)
    inside = (position >= -1.0) & (position <= cells)
    position = position.clamp(0, cells - 1)
    cell = torch.arange(cells, dtype=start.dtype)
    weight = (1 - (position[..., None] - cell).abs()).clamp(min=0) * inside[..., None]
    return weight.view(-1, bins, samples, cells).mean(dim=2)
