"""RoI layers written straight from their definitions: loops, exact fractions, float64 sums.

Every bin is a list of candidates, and a candidate a dictionary from feature (row, column) to its
weight: a bilinear sample, or a single cell of RoIPool. A layer takes the mean or the max of them,
so that the gradient is a scatter of the same weights.
"""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from itertools import chain
from math import ceil, floor

import numpy as np

LAYERS = (
    "ROIPool",
    "ROIWarpMax",
    "ROIWarpAve",
    "ROIAlign",
    "ROIAlignMax",
    "ROIAlignV2",
    "ROIAlignV2Max",
)

HEIGHT, WIDTH = 5, 7  # of the maps in the tests

# Boxes in cells of such a map: x1, y1, x2, y2.
SPECIAL = {
    "inside": (1.3, 0.7, 4.9, 3.2),
    "half-integer edges": (0.5, 1.5, 2.5, 3.5),
    "half-integer, other parity": (1.5, 0.5, 3.5, 2.5),
    "whole map": (0, 0, WIDTH, HEIGHT),
    "tiny": (2.2, 1.2, 2.201, 1.202),
    "tiny, across a rounding edge": (2.4999, 1.4999, 2.5001, 1.5001),
    "a point": (3.0, 2.0, 3.0, 2.0),
    "a point at half integers": (3.5, 2.5, 3.5, 2.5),
    "x2 < x1": (4.1, 1.0, 2.3, 3.0),
    "both reversed": (4.1, 3.9, 2.3, 0.2),
    "left and top outside": (-2.6, -1.5, 2.0, 2.5),
    "right and bottom outside": (4.5, 2.5, 9.5, 8.0),
    "around the map": (-3.0, -3.0, 11.0, 9.0),
    "outside, left": (-6.0, 1.0, -3.0, 3.0),
    "outside, below": (1.0, 8.0, 3.0, 12.0),
    "samples at -1 and at the size": (-1.5, -1.5, 7.5, 5.5),
    "negative half integers": (-0.5, -1.5, 1.5, 0.5),
}


def c_round(value: float) -> int:
    """C's `round`: to the nearest integer, halves away from zero."""
    return int(Decimal(value).quantize(Decimal(1), rounding=ROUND_HALF_UP))


def cells(low, high, scale: float, dtype=np.float64) -> tuple[int, int]:
    """First cell and number of cells of RoIPool along one axis."""
    start = c_round(float(dtype(low) * dtype(scale)))
    end = c_round(float(dtype(high) * dtype(scale)))
    return start, max(end, start) + 1 - start


def pool_bins(low, high, bins: int, size: int, scale: float, dtype=np.float64) -> list[range]:
    """RoIPool's cells of each bin along one axis of `size` cells; bin edges are of type `dtype`."""
    start, extent = cells(low, high, scale, dtype)
    step = dtype(extent) / dtype(bins)
    edges = [
        (start + floor(dtype(i) * step), start + ceil(dtype(i + 1) * step)) for i in range(bins)
    ]
    return [range(min(max(a, 0), size), min(max(b, 0), size)) for a, b in edges]


def sample_positions(layer: str, low, high, bins: int, scale: float, n: int) -> list[list]:
    """Positions of each bin's samples along one axis, in units of cells, feature i at i."""
    if layer.startswith("ROIWarp"):  # rounded; all else is RoIAlign
        start, count = (Fraction(v) for v in cells(low, high, scale))
        extent = max(count - 1, Fraction(1))
    else:
        start, end = Fraction(float(low)) * Fraction(scale), Fraction(float(high)) * Fraction(scale)
        extent = end - start if "V2" in layer else max(end - start, Fraction(1))
    if "V2" in layer:  # feature i lies in the middle of [i, i + 1)
        start -= Fraction(1, 2)
    return [
        [start + (i + (k + Fraction(1, 2)) / n) * extent / bins for k in range(n)]
        for i in range(bins)
    ]


def linear_weights(position: Fraction, size: int) -> dict[int, float]:
    """Weights of a linear sample among `size` values; none if it lies outside."""
    if not -1 <= position <= size:
        return {}
    position = min(max(position, Fraction(0)), Fraction(size - 1))
    below = floor(position)
    weights = {below: float(1 - (position - below)), below + 1: float(position - below)}
    return {i: w for i, w in weights.items() if w}


def candidates(layer, box, output_size, scale, n, height, width):
    """Yields ((bin row, bin column), list of dictionaries (row, column) -> weight)."""
    rows, columns = output_size
    x1, y1, x2, y2 = box
    if layer == "ROIPool":
        in_y = [[{i: 1.0} for i in b] for b in pool_bins(y1, y2, rows, height, scale)]
        in_x = [[{j: 1.0} for j in b] for b in pool_bins(x1, x2, columns, width, scale)]
    else:
        along_y = sample_positions(layer, y1, y2, rows, scale, n)
        along_x = sample_positions(layer, x1, x2, columns, scale, n)
        in_y = [[linear_weights(p, height) for p in b] for b in along_y]
        in_x = [[linear_weights(p, width) for p in b] for b in along_x]
    for row, of_row in enumerate(in_y):
        for column, of_column in enumerate(in_x):
            yield (
                (row, column),
                [
                    {(i, j): a * b for i, a in wy.items() for j, b in wx.items()}
                    for wy in of_row
                    for wx in of_column
                ],
            )


def reference(layer, features, rois, output_size, scale, n, weight):
    """Returns the output (R, C, h, w) and the gradient (N, C, H, W) of `(output * weight).sum()`.

    Args:
        layer: One of LAYERS.
        features: (N, C, H, W) float64 array.
        rois: (R, 5) array, image index and box in image pixels.
        output_size: (h, w).
        scale: 1 / stride.
        n: Samples per bin side.
        weight: (R, C, h, w) array.
    """
    channels, height, width = features.shape[1:]
    out = np.zeros((len(rois), channels, *output_size))
    gradient = np.zeros_like(features)
    takes_max = layer == "ROIPool" or layer.endswith("Max")
    for r, (image, *box) in enumerate(rois):
        for (row, column), found in candidates(layer, box, output_size, scale, n, height, width):
            for c in range(channels):
                source, sink = features[int(image), c], gradient[int(image), c]
                values = [sum(w * source[at] for at, w in f.items()) for f in found]
                if not values:
                    continue
                if takes_max:
                    chosen = {int(np.argmax(values)): 1.0}  # the first of equal ones
                else:
                    chosen = dict.fromkeys(range(n * n), 1 / n**2)
                for k, share in chosen.items():
                    out[r, c, row, column] += share * values[k]
                    for at, w in found[k].items():
                        sink[at] += share * w * weight[r, c, row, column]
    return out, gradient


def touches_border(layer, rois, output_size, scale, n, height, width) -> bool:
    """Whether a sample lies on the border between zero and not, where rounding decides.

    Positions are exact, and such samples well-defined, if bins and samples are powers of 2.
    """
    if layer == "ROIPool":
        return False
    for _, x1, y1, x2, y2 in rois:
        for low, high, bins, size in (
            (y1, y2, output_size[0], height),
            (x1, x2, output_size[1], width),
        ):
            exact = bins & (bins - 1) == 0 and n & (n - 1) == 0
            for position in chain(*sample_positions(layer, low, high, bins, scale, n)):
                gap = min(abs(position + 1), abs(position - size))
                if gap < 1e-9 and not (exact and gap == 0):
                    return True
    return False
