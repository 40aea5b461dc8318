"""Compiled loops of RoIPool: the max of a bin's cells, and its gradient. Needs Numba.

Arrays are those of `roi_align_kernels.py`, but ``axes`` holds per RoI and axis the first cell, the
size of a bin in cells, and an unused number.

Numba's cache does not notice changes of `emit` in its own file. Change this file too.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mask_rcnn_repro.modeling.accel.bfloat16 import load
from mask_rcnn_repro.modeling.accel.roi_align_kernels import Bins, Rois, emit
from mask_rcnn_repro.utils.compiled import compiled


@compiled(fastmath=False)
def _cells_of_bin(axis: np.ndarray, bin: int, size: int) -> tuple[int, int]:
    """First cell of a bin, and the cell after its last; none if the RoI is not finite."""
    number = axis.dtype.type
    low = np.floor(number(bin) * axis[1]) + np.float64(axis[0])
    high = np.ceil(number(bin + 1) * axis[1]) + np.float64(axis[0])
    if not (math.isfinite(low) and math.isfinite(high)):
        return 0, 0
    return int(min(max(low, 0.0), float(size))), int(min(max(high, 0.0), float(size)))


@compiled(fastmath=False)
def cells_forward(
    maps: Any, out: Any, channels_last: bool, rois: Rois, bins: Bins, chosen: Any
) -> None:
    """Max of each bin's cells.

    ``chosen`` (R, bins, C), unless R is 0, gets y W + x of the first largest cell, or -1.
    """
    (order, images, axes), (rows, columns) = rois, bins
    height, width, channels = maps.shape[1:]
    best = np.empty((rows * columns, channels), axes.dtype)
    kind, track = axes.dtype.type, len(chosen) > 0
    for r in order:
        for bin in range(rows * columns):
            top, bottom = _cells_of_bin(axes[r, 1], bin // columns, height)
            left, right = _cells_of_bin(axes[r, 0], bin % columns, width)
            largest = best[bin]
            empty = top >= bottom or left >= right
            largest[:] = kind(0) if empty else kind(-3.4028234663852886e38)
            if track:
                chosen[r, bin] = -1
            for y in range(top, bottom):
                for x in range(left, right):
                    features = maps[images[r], y, x]
                    if track:
                        taken, cell = chosen[r, bin], np.int32(y * width + x)
                        for c in range(channels):
                            value = load(features[c])
                            larger = value > largest[c]
                            largest[c] = value if larger else largest[c]
                            taken[c] = cell if larger else taken[c]
                    else:
                        for c in range(channels):
                            value = load(features[c])
                            largest[c] = value if value > largest[c] else largest[c]
        emit(out, r, channels_last, best)


@compiled(fastmath=False)
def cells_backward(
    grads: np.ndarray,
    gradients: np.ndarray,
    channels_last: bool,
    rois: Rois,
    bins: Bins,
    chosen: np.ndarray,
    first: int,
    last: int,
) -> None:
    """Gradient of :func:`cells_forward` for rows [first, last) of the (N H) rows of the maps."""
    (order, images, axes), (rows, columns) = rois, bins
    height, width, channels = grads.shape[1:]
    for line in range(first, last):
        grads[line // height, line % height] = grads.dtype.type(0)
    for r in order:
        start = images[r] * height
        low, high = max(first - start, 0), min(last - start, height)
        if low >= high:
            continue
        target = grads[images[r]].reshape((height * width, channels))
        for bin in range(rows * columns):
            top, bottom = _cells_of_bin(axes[r, 1], bin // columns, height)
            if bottom <= low or top >= high:
                continue
            for c in range(channels):
                cell = chosen[r, bin, c]
                if low * width <= cell < high * width:
                    value = gradients[r, bin, c] if channels_last else gradients[r, c, bin]
                    target[cell, c] += load(value)
