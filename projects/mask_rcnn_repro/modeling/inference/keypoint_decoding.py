"""Keypoints from heatmaps, many persons at a time.

Shapes: R detections, K keypoints, S heatmap side; n detections of one step, enlarged to (h, w).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

_CPU_VALUES, _GPU_VALUES = 1 << 19, 1 << 26  # of enlarged heatmaps at a time; bounds memory
_MOST_PADDING = 1.5  # values computed per value needed


@torch.no_grad()
def decode_heatmaps(heatmaps: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Finds the maximum of each heatmap after bicubic interpolation to the size of its box.

    Equals Detectron2's ``heatmaps_to_keypoints`` up to rounding, without the logit. Boxes of
    similar sizes are interpolated together by two matrix products, in float32 under autocast too.

    Args:
        heatmaps: (R, K, S, S) logits.
        boxes: (R, 4) XYXY in pixels. They are enlarged to whole pixels, at least one.

    Returns:
        (R, K, 3): x, y in the frame of the boxes, and the score, which is the softmax over the
        S x S map at the maximum. R may be 0.
    """
    heatmaps, boxes = heatmaps.float(), boxes.float()
    result = heatmaps.new_zeros(*heatmaps.shape[:2], 3)
    sizes = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)
    whole = sizes.ceil()
    most = (_CPU_VALUES if heatmaps.device.type == "cpu" else _GPU_VALUES) // heatmaps.shape[1]
    for part, width, height in _parts(whole.int().tolist(), most):
        own = torch.tensor(part, device=heatmaps.device)
        maps, (w, h) = heatmaps[own], whole[own].unbind(1)
        with torch.autocast(heatmaps.device.type, enabled=False):
            rows = _enlarging(h, height, maps.shape[2])[:, None] @ maps
            large = rows @ _enlarging(w, width, maps.shape[3])[:, None].transpose(2, 3)
        best, place = large.flatten(2).max(2)
        # beyond its own size the last row or column of a map is repeated
        pixels = torch.stack([place % width, place // width], dim=2)
        pixels = pixels.minimum(whole[own, None].long() - 1)
        scores = 1 / (maps.flatten(2) - best[..., None]).exp().sum(2)
        places = (pixels + 0.5) * (sizes / whole)[own, None] + boxes[own, None, :2]
        result[own] = torch.cat([places, scores[..., None]], dim=2)
    return result


def _parts(sizes: Sequence[Sequence[int]], most: int) -> Iterator[tuple[list[int], int, int]]:
    """Groups boxes (w, h) of similar sizes: their numbers, and the width and height of all."""
    part: list[int] = []
    width = height = area = 0
    for i in sorted(range(len(sizes)), key=lambda i: sizes[i][0] * sizes[i][1]):
        w, h = sizes[i]
        together = (len(part) + 1) * max(width, w) * max(height, h)
        if part and together > min(most, _MOST_PADDING * (area + w * h)):
            yield part, width, height
            part, width, height, area = [], 0, 0, 0
        part.append(i)
        width, height, area = max(width, w), max(height, h), area + w * h
    if part:
        yield part, width, height


def _enlarging(lengths: torch.Tensor, size: int, side: int) -> torch.Tensor:
    """Matrices (n, size, side) of PyTorch's bicubic interpolation from `side` to `lengths` values.

    `lengths` is (n,). The last of them fills the rows up to `size`.
    """
    places = torch.arange(size, device=lengths.device).minimum(lengths[:, None] - 1)
    places = (places + 0.5) * (side / lengths[:, None]) - 0.5
    columns = torch.arange(side, device=lengths.device)
    matrix = lengths.new_zeros(len(lengths), size, side)
    for step in range(-1, 3):
        source = places.floor() + step
        x = (places - source).abs()
        near = (1.25 * x - 2.25) * x * x + 1  # Keys' kernel with a = -0.75
        far = ((-0.75 * x + 3.75) * x - 6) * x + 3
        weight = torch.where(x <= 1, near, far)
        source = source.clamp(0, side - 1)  # repeats the border
        matrix += weight[..., None] * (source[..., None] == columns)
    return matrix
