"""RoI layers by compiled loops on the CPU: forward, backward, all levels of a pyramid at once.

Computes the sums and maxima of torchvision's operators (section 3, "RoIAlign"; table 2c), about ten
times as fast. Features are read with the channels innermost, and once for all samples that need
them. Results differ from torchvision's only by the rounding of sums, and do not depend on the
number of threads.

A RoI whose coordinates are not finite gives zeros. torchvision's operators read memory outside the
map for it.

Shapes: N images, R RoIs of all images together, C channels, H x W feature map.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch.autograd.function import once_differentiable
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from mask_rcnn_repro.utils import compiled

DTYPES = (torch.float32, torch.float64, torch.bfloat16)
MAX_SAMPLES = 15  # per side: the number of the largest sample is stored in a byte

# Number of cells whose conversion to channels_last format (and of the gradient back) takes as long
# as torchvision's operator takes for one bin of four samples. Measured at 64 and 256 channels.
CELLS_A_BIN = 8
CELLS_A_BIN_BACKWARD = 32

# The fewest RoIs, and rows of a map, per thread.
MIN_ROIS = 16
MIN_ROWS = 16

LARGE = 4 * 2**20  # bytes from which NumPy asks for huge pages


class Form(NamedTuple):
    """What a RoI layer computes."""

    kind: Literal["mean", "max", "cells"]  # of bilinear samples, or max of cells (RoIPool)
    output_size: tuple[int, int]  # (rows, columns)
    samples: int  # per bin side; 0 takes one per cell or more, as torchvision (mean only)
    half_pixel: bool = False  # whether feature i lies at i + 1/2 cells, not at i
    rounded: bool = False  # whether the RoI is rounded to whole cells first (RoIWarp)


class _Plan(NamedTuple):
    """RoIs as the kernels take them, see `roi_align_kernels`."""

    form: Form
    levels: list[np.ndarray]  # the RoIs of each map in order of image and height
    images: np.ndarray
    axes: np.ndarray
    track: bool = False  # whether a gradient is needed
    channels_last: bool = False  # memory format of the output


def applies(maps: Sequence[torch.Tensor], rois: torch.Tensor, form: Form) -> bool:
    """Whether :func:`pool_rois` can compute a layer, and is faster than torchvision's operator.

    It takes ordinary CPU tensors in eager mode: maps (N, C, H, W) and RoIs (R, 5). Tracing,
    compilation, export and fake tensors need torchvision's operators.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.jit.is_scripting():
        return False
    first = maps[0]
    for x in (*maps, rois):
        ordinary = type(x) in (torch.Tensor, torch.nn.Parameter) and x.layout == torch.strided
        if not ordinary or x.device.type != "cpu":
            return False
    if first.dtype not in DTYPES or not rois.is_floating_point() or rois.shape[1:] != (5,):
        return False
    if any(m.dim() != 4 or m.dtype != first.dtype or m.shape[:2] != first.shape[:2] for m in maps):
        return False
    if form.kind == "max" and form.samples > MAX_SAMPLES:
        return False
    if is_in_torch_dispatch_mode() or not compiled.HAVE_NUMBA:
        return False
    cells = sum(m.shape[0] * m.shape[2] * m.shape[3] for m in maps if not _is_channels_last(m))
    backward = form.kind != "cells" and _wants_gradient(maps)
    cells_a_bin = CELLS_A_BIN_BACKWARD if backward else CELLS_A_BIN
    return cells <= len(rois) * form.output_size[0] * form.output_size[1] * cells_a_bin


def pool_rois(
    maps: Sequence[torch.Tensor],
    rois: torch.Tensor,
    scales: Sequence[float],
    form: Form,
    levels: torch.Tensor | None = None,
    channels_last: bool | None = None,
) -> torch.Tensor:
    """Pools RoIs, each from one of several maps. Requires :func:`applies`.

    Maps that are not in channels_last memory format are converted first. Sums are float32 (float64
    for float64 maps); for bfloat16 maps they are rounded once at the end.

    Args:
        maps: (N, C, H, W) features of one type; differentiable once.
        rois: (R, 5) image index and XYXY box in image pixels, without gradient; R may be 0.
        scales: 1 / stride of each map.
        form: What to compute.
        levels: (R,) index of each RoI's map, clipped to the maps; None if there is one map.
        channels_last: Memory format of the output; None takes that of the maps.

    Returns:
        (R, C, rows, columns) of the maps' type.

    Raises:
        IndexError: If a RoI's image index is not in the maps.
    """
    if channels_last is None:
        channels_last = any(_is_channels_last(m) and not m.is_contiguous() for m in maps)
    plan = _make_plan(maps, rois.detach(), scales, form, levels)
    plan = plan._replace(track=_wants_gradient(maps), channels_last=channels_last)
    return _PoolRoIs.apply(plan, *maps)


def _wants_gradient(maps: Sequence[torch.Tensor]) -> bool:
    return torch.is_grad_enabled() and any(m.requires_grad for m in maps)


def _is_channels_last(features: torch.Tensor) -> bool:
    return features.is_contiguous(memory_format=torch.channels_last)


def _make_plan(
    maps: Sequence[torch.Tensor],
    rois: torch.Tensor,
    scales: Sequence[float],
    form: Form,
    levels: torch.Tensor | None,
) -> _Plan:
    """Converts RoIs to cells, in torchvision's arithmetic, and sorts them."""
    kind = torch.promote_types(maps[0].dtype, torch.float32)
    rois = rois.to(kind)
    images = rois[:, 0].numpy()
    number = len(maps[0])
    if len(wrong := images[~((images >= 0) & (images < number))]):
        raise IndexError(
            f"a RoI has image index {wrong[0]:g}, but the feature maps hold {number} images "
            "(counted from 0)"
        )
    scale: Any = scales[0]
    if levels is not None:
        levels = levels.clamp(0, len(maps) - 1)  # arbitrary for a box that is not finite
        scale = torch.tensor(scales, dtype=kind)[levels][:, None]
    axes = _axes(rois[:, 1:], scale, form).numpy()
    middle = axes[:, 1, 0] + axes[:, 1, 1] * (form.output_size[0] * 0.5)
    order = np.lexsort((middle, images))  # neighbors read the same features from the cache
    by_level = [order]
    if levels is not None:
        of_order = levels.numpy()[order]
        by_level = [order[of_order == level] for level in range(len(maps))]
    return _Plan(form, by_level, images.astype(np.int64), axes)


def _axes(boxes: torch.Tensor, scale: Any, form: Form) -> torch.Tensor:
    """Returns (R, 2, 3): start and size of a bin in cells, and samples in it, along x and y."""
    bins = boxes.new_tensor(form.output_size[::-1])
    samples = boxes.new_tensor(float(form.samples)).expand(len(boxes), 2)
    if form.kind == "cells":
        start, size = cells_of(boxes, scale)
        return torch.stack([start, size / bins, samples], dim=2)
    boxes = round_boxes(boxes, scale) if form.rounded else boxes * scale
    if form.half_pixel:
        boxes = boxes - 0.5
    start, size = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
    if not form.half_pixel:  # the original form makes every RoI at least one cell large
        size = size.clamp(min=1.0)
    if form.kind == "max":  # samples as bins of their own
        return torch.stack([start, size / (bins * form.samples), torch.ones_like(samples)], dim=2)
    if form.samples < 1:
        whole = (size / bins) - (size / bins).frac()
        samples = (whole + (size / bins > whole)).nan_to_num(0.0).clamp(0, 1e6)  # rounded up
    return torch.stack([start, size / bins, samples], dim=2)


def round_boxes(boxes: torch.Tensor, spatial_scale: Any) -> torch.Tensor:
    """Scales boxes to feature cells and rounds them, as RoIPool and RoIWarp do (section 3).

    Equal to the rounding of `torchvision.ops.roi_pool`: C's ``round``, halves away from zero, after
    a product in the boxes' type. (`torch.round` rounds halves to even; adding 1/2 fails at
    0.49999997.)

    Args:
        boxes: (R, 4) XYXY in image pixels.
        spatial_scale: 1 / stride, of all RoIs or (R, 1) of each.

    Returns:
        (R, 4) XYXY in cells, whole numbers in the boxes' type. Not clipped to a map.
    """
    scaled = boxes * spatial_scale
    twice = 2 * scaled.frac()  # exact, like all products and differences here
    return scaled - scaled.frac() + (twice - twice.frac())  # `trunc` waits for threads (MKL)


def cells_of(boxes: torch.Tensor, spatial_scale: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the feature cells of RoIPool: the rounded edges and all cells between them.

    Arguments are those of :func:`round_boxes`. Returns the first cell (x, y) and the number of
    cells (along x, along y), at least 1; each (R, 2), whole numbers in the boxes' type. Not clipped
    to a map.
    """
    start, end = round_boxes(boxes, spatial_scale).split(2, dim=1)
    return start, (end - start + 1).clamp(min=1)


class _PoolRoIs(torch.autograd.Function):
    """The kernels as a differentiable operator of plan and maps."""

    @staticmethod
    def forward(ctx: Any, plan: _Plan, *maps: torch.Tensor) -> torch.Tensor:
        rows, columns = plan.form.output_size
        channels, count = maps[0].shape[1], len(plan.images)
        out = _empty(count, channels, rows, columns, maps[0].dtype, plan.channels_last)
        chosen = torch.empty(0, 1, 1, dtype=torch.uint8)
        if plan.form.kind != "mean":
            kind = torch.uint8 if plan.form.kind == "max" else torch.int32
            chosen = _allocate((count if plan.track else 0, rows * columns, channels), kind)
        of_rows = [
            _array(_to_rows(m)) if len(level) else None
            for m, level in zip(maps, plan.levels, strict=True)
        ]
        _forward(plan, of_rows, _lines(out, plan.channels_last), chosen.numpy())
        if plan.track:
            ctx.plan = plan
            ctx.save_for_backward(chosen)
            ctx.maps = [(m.shape, m.dtype, _is_channels_last(m)) for m in maps]
        # the same memory, but not a view: views made here must not be changed in place
        where = (out.untyped_storage(), out.storage_offset(), out.shape, out.stride())
        return torch.empty(0, dtype=out.dtype).set_(*where)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (chosen,) = ctx.saved_tensors
        channels_last = _is_channels_last(gradient)
        if not channels_last:
            gradient = gradient.contiguous()
        lines = _lines(gradient, channels_last)
        grads: list[torch.Tensor | None] = [None]
        for level, (shape, dtype, last) in enumerate(ctx.maps):
            if not ctx.needs_input_grad[1 + level]:
                grads.append(None)
                continue
            kind = torch.promote_types(dtype, torch.float32)
            number, channels, height, width = shape
            grad = _empty(number, channels, height, width, kind, channels_last=True)
            order = ctx.plan.levels[level]
            if len(order) and grad.numel():
                _backward(ctx.plan, order, grad, lines, channels_last, chosen.numpy())
            else:
                grad.zero_()
            if dtype != kind:
                rounded = _empty(number, channels, height, width, dtype, channels_last=True)
                grad = rounded.copy_(grad)
            grads.append(grad if last else _to_nchw(grad))
        return tuple(grads)


def _forward(plan: _Plan, maps: list[Any], out: np.ndarray, chosen: np.ndarray) -> None:
    from mask_rcnn_repro.modeling.accel import roi_align_kernels, roi_pool_kernels

    ends = np.cumsum([len(level) for level in plan.levels])

    def work(first: int, last: int) -> None:
        for features, order, end in zip(maps, plan.levels, ends, strict=True):
            part = order[max(first - (end - len(order)), 0) : max(last - (end - len(order)), 0)]
            if not len(part):
                continue
            rois = (part, plan.images, plan.axes)
            common = (features, out, plan.channels_last, rois, plan.form.output_size)
            if plan.form.kind == "mean":
                taps = _most_taps(plan, order, features.shape[1:3])
                roi_align_kernels.mean_forward(*common, taps)
            elif plan.form.kind == "max":
                roi_align_kernels.max_forward(*common, plan.form.samples, chosen)
            else:
                roi_pool_kernels.cells_forward(*common, chosen)

    compiled.run_in_threads(work, int(ends[-1]), min_items=MIN_ROIS)


def _backward(
    plan: _Plan,
    order: np.ndarray,
    grad: torch.Tensor,
    gradients: np.ndarray,
    channels_last: bool,
    chosen: np.ndarray,
) -> None:
    """Fills a map's gradient. One thread computes a row, and takes the RoIs in their order."""
    from mask_rcnn_repro.modeling.accel import roi_align_kernels, roi_pool_kernels

    number, _, height, width = grad.shape
    grads, rois = _array(grad.permute(0, 2, 3, 1)), (order, plan.images, plan.axes)
    common = (grads, gradients, channels_last, rois, plan.form.output_size, chosen)
    n = plan.form.samples if plan.form.kind == "max" else 0
    samples = (_most_taps(plan, order, (height, width)), n)

    def work(first: int, last: int) -> None:
        if plan.form.kind == "cells":
            roi_pool_kernels.cells_backward(*common, first, last)
        else:
            roi_align_kernels.samples_backward(*common, samples, first, last)

    compiled.run_in_threads(work, number * height, min_items=MIN_ROWS)


def _most_taps(plan: _Plan, order: np.ndarray, size: tuple[int, ...]) -> int:
    """The most cells that a bin of these RoIs reads along an axis: two per sample."""
    return int(max(1, min(2 * plan.axes[order, :, 2].max(), *[max(size)])))


def _empty(
    number: int, channels: int, height: int, width: int, dtype: torch.dtype, channels_last: bool
) -> torch.Tensor:
    if channels_last:
        return _allocate((number, height, width, channels), dtype).permute(0, 3, 1, 2)
    return _allocate((number, channels, height, width), dtype)


def _allocate(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """`torch.empty`, with large tensors from NumPy, which asks the system for huge pages.

    Otherwise the first write to 50 MB, page by page, takes longer than pooling.
    """
    length = math.prod(shape)
    if length * dtype.itemsize < LARGE:
        return torch.empty(shape, dtype=dtype)
    room = torch.from_numpy(np.empty(length * dtype.itemsize + 64, np.uint8))
    begin = -room.data_ptr() % 64  # aligned like PyTorch's own
    return room[begin : begin + length * dtype.itemsize].view(dtype).view(shape)


def _lines(tensor: torch.Tensor, channels_last: bool) -> np.ndarray:
    """Views (R, C, rows, columns) as an array (R, bins, C) or (R, C, bins)."""
    number, channels, rows, columns = tensor.shape
    if channels_last:
        return _array(tensor.permute(0, 2, 3, 1).view(number, rows * columns, channels))
    return _array(tensor.view(number, channels, rows * columns))


def _array(tensor: torch.Tensor) -> np.ndarray:
    """Views a tensor as an array; bfloat16 as uint16."""
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(np.uint16)
    return tensor.numpy()


def _to_rows(features: torch.Tensor) -> torch.Tensor:
    """Converts a map to (N, H, W, C), contiguous; a copy unless it is channels_last."""
    rows = features.detach().permute(0, 2, 3, 1)
    return rows if rows.is_contiguous() else _allocate(tuple(rows.shape), rows.dtype).copy_(rows)


def _to_nchw(grad: torch.Tensor) -> torch.Tensor:
    """Copies a channels_last tensor to contiguous format, as one transposed matrix per image."""
    number, channels, height, width = grad.shape
    out = _empty(number, channels, height, width, grad.dtype, channels_last=False)
    for target, source in zip(out, grad.permute(0, 2, 3, 1), strict=True):
        target.view(channels, height * width).copy_(source.reshape(height * width, channels).t())
    return out
