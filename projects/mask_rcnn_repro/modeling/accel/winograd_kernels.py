"""Compiled loops of Winograd's convolution: maps to transformed tiles, and back.

Needs Numba; `winograd.py` imports it when first used, and explains the transforms.

Arrays: maps (N, H, W, C), bfloat16 as uint16; ``tiles`` (T, 36, C), float32. Tiles are numbered
image by image and row by row. These functions compute numbers ``first + start`` to
``first + stop``, which are the rows ``start`` to ``stop`` of ``tiles``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mask_rcnn_repro.modeling.accel.bfloat16 import load, store
from mask_rcnn_repro.utils.compiled import compiled

# Products and sums may be fused; nothing else may be reordered.
_FUSED = {"contract", "nsz"}


@compiled(fastmath=_FUSED, error_model="numpy", inline="always")
def _spread(a: Any, b: Any, c: Any, d: Any, e: Any, f: Any) -> Any:
    """Maps six features along an axis to six values of the transformed tile (B^T)."""
    two, four, five = np.float32(2), np.float32(4), np.float32(5)
    s, t = e - c * four, d - b * four
    p, q = e - c, (d - b) * two
    return a * four - c * five + e, s + t, s - t, p + q, p - q, b * four - d * five + f


@compiled(fastmath=_FUSED, error_model="numpy", inline="always")
def _gather(a: Any, b: Any, c: Any, d: Any, e: Any, f: Any) -> Any:
    """Maps six products along an axis to four outputs (A^T)."""
    two, four, eight = np.float32(2), np.float32(4), np.float32(8)
    p, q, r, s = b + c, b - c, d + e, d - e
    return a + p + r, q + s * two, p + r * four, q + s * eight + f


@compiled(fastmath=_FUSED, error_model="numpy")
def cut_tiles(x: Any, first: int, start: int, stop: int, tiles: Any) -> None:
    """Writes the transformed 6 x 6 windows of a map, which is zero beyond its border."""
    _, height, width, channels = x.shape
    across, down = (width + 3) // 4, (height + 3) // 4
    zeros = np.zeros(channels, x.dtype)
    half = np.empty((6, 6, channels), np.float32)
    for row in range(start, stop):
        number = first + row
        image, number = number // (across * down), number % (across * down)
        top, left = 4 * (number // across) - 1, 4 * (number % across) - 1
        for j in range(6):
            column = left + j
            inside = 0 <= column < width
            r0 = x[image, top, column] if inside and top >= 0 else zeros
            r1 = x[image, top + 1, column] if inside else zeros
            r2 = x[image, top + 2, column] if inside and top + 2 < height else zeros
            r3 = x[image, top + 3, column] if inside and top + 3 < height else zeros
            r4 = x[image, top + 4, column] if inside and top + 4 < height else zeros
            r5 = x[image, top + 5, column] if inside and top + 5 < height else zeros
            h0, h1, h2 = half[0, j], half[1, j], half[2, j]
            h3, h4, h5 = half[3, j], half[4, j], half[5, j]
            for c in range(channels):
                h0[c], h1[c], h2[c], h3[c], h4[c], h5[c] = _spread(
                    load(r0[c]), load(r1[c]), load(r2[c]),
                    load(r3[c]), load(r4[c]), load(r5[c]),
                )  # fmt: skip
        for i in range(6):
            tile = tiles[row, 6 * i : 6 * i + 6]
            t0, t1, t2, t3, t4, t5 = tile[0], tile[1], tile[2], tile[3], tile[4], tile[5]
            h = half[i]
            for c in range(channels):
                t0[c], t1[c], t2[c], t3[c], t4[c], t5[c] = _spread(
                    h[0, c], h[1, c], h[2, c], h[3, c], h[4, c], h[5, c]
                )


@compiled(fastmath=_FUSED, error_model="numpy")
def join_tiles(
    tiles: Any, first: int, start: int, stop: int, bias: Any, relu: bool, y: Any
) -> None:
    """Writes the 4 x 4 outputs of each tile, with bias (C,), float32, and optional ReLU."""
    _, height, width, channels = y.shape
    across, down = (width + 3) // 4, (height + 3) // 4
    half = np.empty((4, 6, channels), np.float32)
    spare = np.empty((4, channels), y.dtype)  # for outputs beyond the border
    floor = np.float32(0) if relu else np.float32(-np.inf)
    for row in range(start, stop):
        number = first + row
        image, number = number // (across * down), number % (across * down)
        top, left = 4 * (number // across), 4 * (number % across)
        for j in range(6):
            t0, t1, t2 = tiles[row, j], tiles[row, 6 + j], tiles[row, 12 + j]
            t3, t4, t5 = tiles[row, 18 + j], tiles[row, 24 + j], tiles[row, 30 + j]
            h0, h1, h2, h3 = half[0, j], half[1, j], half[2, j], half[3, j]
            for c in range(channels):
                h0[c], h1[c], h2[c], h3[c] = _gather(t0[c], t1[c], t2[c], t3[c], t4[c], t5[c])
        for i in range(min(4, height - top)):
            h = half[i]
            y0 = y[image, top + i, left]
            y1 = y[image, top + i, left + 1] if left + 1 < width else spare[1]
            y2 = y[image, top + i, left + 2] if left + 2 < width else spare[2]
            y3 = y[image, top + i, left + 3] if left + 3 < width else spare[3]
            for c in range(channels):
                v0, v1, v2, v3 = _gather(h[0, c], h[1, c], h[2, c], h[3, c], h[4, c], h[5, c])
                v0, v1, v2, v3 = v0 + bias[c], v1 + bias[c], v2 + bias[c], v3 + bias[c]
                # a comparison that keeps NaN, as PyTorch's ReLU does
                store(y0, c, floor if v0 < floor else v0)
                store(y1, c, floor if v1 < floor else v1)
                store(y2, c, floor if v2 < floor else v2)
                store(y3, c, floor if v3 < floor else v3)
