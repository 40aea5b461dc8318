"""Decoding of keypoints from heatmaps as a loop that exporters support.

Shapes: R detections, P keypoints, S heatmap side.
"""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from torch._higher_order_ops.map import map as map_rows

_MAX_SIDE = 1 << 15  # of an image in pixels; the exporter needs a limit


def _enlarge(size: int, small: torch.Tensor) -> torch.Tensor:
    """Returns the matrix (size, S) of PyTorch's bicubic interpolation from S to `size` values.

    Two matrix products are faster in onnxruntime than its interpolation operator.

    Args:
        size: Output size.
        small: Any tensor whose last dimension is S.
    """
    side = small.size(-1)
    places = torch.arange(size, device=small.device).to(small.dtype)
    places = (places + 0.5) * (float(side) / float(size)) - 0.5
    first = places.floor()
    columns = torch.arange(side, device=small.device).to(small.dtype)
    matrix = torch.zeros([size, side], dtype=small.dtype, device=small.device)
    for step in range(-1, 3):
        source = first + step
        x = (places - source).abs()
        near = (1.25 * x - 2.25) * x * x + 1.0  # Keys' kernel with a = -0.75
        far = ((-0.75 * x + 3.75) * x - 6.0) * x + 3.0
        weight = torch.where(x <= 1.0, near, far)
        source = source.clamp(min=0.0, max=side - 1.0)  # repeats the border
        matrix = matrix + weight[:, None] * (source[:, None] == columns[None]).to(small.dtype)
    return matrix


with warnings.catch_warnings():  # deprecations
    warnings.simplefilter("ignore")
    _enlarging = torch.jit.script(_enlarge)


def _decode_keypoints(heatmaps: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Finds the maximum of each heatmap after bicubic interpolation to the size of the box.

    Equals Detectron2's `heatmaps_to_keypoints`, restricted to the score that evaluations read, in
    ONNX operators. Each box has its own size, so this is a loop. It is scripted, because tracing
    would unroll it for the example image.

    Args:
        heatmaps: (R, P, S, S) logits.
        boxes: (R, 4) XYXY in pixels.

    Returns:
        (R, P, 3): x, y in pixels and the score, the softmax over the S x S map. R may be 0.
    """
    result = heatmaps.new_zeros((0, heatmaps.size(1), 3))
    sizes = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1.0)
    whole = sizes.ceil().to(torch.int64)
    scales = sizes / sizes.ceil()
    for i in range(heatmaps.size(0)):
        small = heatmaps[i : i + 1]
        down = _enlarging(int(whole[i, 1]), small)
        across = _enlarging(int(whole[i, 0]), small)
        large = torch.matmul(torch.matmul(down, small[0]), across.t())
        best, place = large.flatten(1).max(1)
        row = torch.div(place, whole[i, 0], rounding_mode="floor")
        column = place - row * whole[i, 0]
        x = (column.float() + 0.5) * scales[i, 0] + boxes[i, 0]
        y = (row.float() + 0.5) * scales[i, 1] + boxes[i, 1]
        score = 1.0 / (small[0].flatten(1) - best[:, None]).exp().sum(1)
        result = torch.cat([result, torch.stack([x, y, score], dim=1)[None]])
    return result


with warnings.catch_warnings():  # deprecations
    warnings.simplefilter("ignore")
    decode_keypoints = torch.jit.script(_decode_keypoints)


def map_keypoints(heatmaps: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """`decode_keypoints` for `torch.export`, which supports a map but no scripted loop."""

    def decode_one(row: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        small, box = row
        size = (box[2:] - box[:2]).clamp(min=1.0)
        whole = size.ceil().to(torch.int64)
        width, height = whole[0].item(), whole[1].item()
        for side in (width, height):
            torch._check(side >= 1)
            torch._check(side < _MAX_SIDE)
        large = F.interpolate(small[None], size=(height, width), mode="bicubic")
        best, place = large[0].flatten(1).max(1)
        row_number = torch.div(place, whole[0], rounding_mode="floor")
        column = place - row_number * whole[0]
        scale = size / size.ceil()
        x = (column.float() + 0.5) * scale[0] + box[0]
        y = (row_number.float() + 0.5) * scale[1] + box[1]
        score = 1.0 / (small.flatten(1) - best[:, None]).exp().sum(1)
        return torch.stack([x, y, score], dim=1)

    # a map needs at least one row, so an additional one is appended and removed
    heatmaps = torch.cat([heatmaps, heatmaps.new_zeros(1, *heatmaps.shape[1:])])
    boxes = torch.cat([boxes, boxes.new_zeros(1, 4)])
    result: torch.Tensor = map_rows(decode_one, (heatmaps, boxes))
    return result[:-1]
