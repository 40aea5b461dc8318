"""Pillow's antialiased resizing in compiled loops; see `resize.py`. Needs Numba.

Shapes: C channels, H x W source, H' x W' result; planes are (C, H, W), "lying" planes (C, W, H).
Integers alone: weights are fixed-point numbers with 22 bits after the point, as Pillow has them.
"""

from __future__ import annotations

import numpy as np

from mask_rcnn_repro.utils.compiled import compiled

PRECISION_BITS = 22


@compiled()
def resample(
    source: np.ndarray, first: np.ndarray, count: np.ndarray, weights: np.ndarray, out: np.ndarray
) -> None:
    """Weighted sums of neighboring rows, rounded: one of Pillow's two passes.

    Args:
        source: (C, H, W) uint8, rows contiguous.
        first: (H',) int32, first row of each sum.
        count: (H',) int32, rows of each sum, at least 1.
        weights: (H', T) int32, not negative, those of a sum adding up to about 2^22.
        out: (C, H', W) uint8, written.
    """
    width = source.shape[2]
    half = np.int32(1 << (PRECISION_BITS - 1))
    total = np.empty(width, np.int32)
    for channel in range(source.shape[0]):
        for row in range(out.shape[1]):
            start = first[row]
            taps = count[row]
            target = out[channel, row]
            w0 = weights[row, 0]
            a = source[channel, start]
            if taps == 1:
                for i in range(width):
                    target[i] = np.uint8((half + w0 * np.int32(a[i])) >> PRECISION_BITS)
            elif taps == 2:  # enlarging
                w1 = weights[row, 1]
                b = source[channel, start + 1]
                for i in range(width):
                    value = half + w0 * np.int32(a[i]) + w1 * np.int32(b[i])
                    target[i] = np.uint8(value >> PRECISION_BITS)
            else:
                for i in range(width):
                    total[i] = half + w0 * np.int32(a[i])
                for tap in range(1, taps - 1):
                    w = weights[row, tap]
                    b = source[channel, start + tap]
                    for i in range(width):
                        total[i] += w * np.int32(b[i])
                w = weights[row, taps - 1]
                b = source[channel, start + taps - 1]
                for i in range(width):
                    value = total[i] + w * np.int32(b[i])
                    target[i] = np.uint8(value >> PRECISION_BITS)
