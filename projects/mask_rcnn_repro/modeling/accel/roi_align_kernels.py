"""Compiled loops of RoIAlign and RoIWarp: mean or max of bilinear samples, and their gradients.

Needs Numba; :mod:`~mask_rcnn_repro.modeling.accel.compiled_roi_layers` imports it when first used.

The mean of bilinear samples is linear and separates into rows and columns. Each axis of a RoI
becomes a list of taps: the cells that a bin reads and the weights of all its samples there. Each
feature row is read once, with the channels innermost: ``out = A_y F A_x^T`` without the zeros. The
gradient is the transpose. Positions are computed by torchvision's operations in the map's type.
A sample therefore falls on the same side of every border; only the order of sums differs.

Each row of a map's gradient is accumulated by one thread in the order of the RoIs. Gradients do
not depend on the number of threads.

Arrays: maps (N, H, W, C), bfloat16 as uint16; outputs (R, bins, C), or (R, C, bins) if not
``channels_last``, with bins = rows x columns; ``axes`` (R, 2, 3): per RoI and axis (x, y) the start
and the size of a bin in cells and the number of samples in it; ``images`` (R,); ``order``: the RoIs
to compute. For a max the bins of ``axes`` are the samples, one in each.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mask_rcnn_repro.modeling.accel.bfloat16 import load, store
from mask_rcnn_repro.utils.compiled import compiled

# Products and sums may be fused; nothing else may be reordered.
FUSED = {"contract"}

ByBin = tuple[np.ndarray, np.ndarray, np.ndarray]
ByCell = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
Rois = tuple[np.ndarray, np.ndarray, np.ndarray]  # order, images, axes
Bins = tuple[int, int]  # rows, columns


@compiled(fastmath=False)  # explicit, since callers would pass theirs on
def _add_tap(taps: ByBin, line: int, cell: int, weight: Any) -> None:
    """Adds a tap. Samples come in order, so its cell is among the last three or new."""
    counts, cells, weights = taps
    used = counts[line]
    for back in range(1, min(3, used) + 1):
        if cells[line, used - back] == cell:
            weights[line, used - back] += weight
            return
    if used < cells.shape[1]:
        cells[line, used] = cell
        weights[line, used] = weight
        counts[line] = used + 1


@compiled(fastmath=False)  # explicit, since callers would pass theirs on
def _taps_of_bins(axis: np.ndarray, bins: int, size: int, taps: ByBin) -> None:
    """Fills each bin's taps from ``axis``: start, size of a bin, samples in it.

    A sample outside [-1, size] counts as zero, one outside [0, size - 1] takes the border cell's
    value. RoIs that are not finite have no taps.
    """
    number = axis.dtype.type
    start, step, samples = axis[0], axis[1], axis[2]
    for bin in range(bins):
        taps[0][bin] = 0
    if not (math.isfinite(start) and math.isfinite(step) and samples >= 1) or size < 1:
        return
    half, one, top = number(0.5), number(1), number(size - 1)
    for bin in range(bins):
        first, last = 0, int(samples)
        # with an adaptive number of samples, about one per cell: skip those far outside
        if last > 64 and step > last - 2:
            origin = float(start) + float(bin) * float(step)
            per_cell = float(samples) / float(step)
            low = math.floor((-1.0 - origin) * per_cell) - 2.0
            high = math.ceil((float(size) - origin) * per_cell) + 2.0
            first = int(min(max(low, 0.0), float(samples)))
            last = int(min(max(high, 0.0), float(samples)))
        for k in range(first, last):
            position = start + number(bin) * step + (number(k) + half) * step / samples
            if not (position >= -one and position <= number(size)):
                continue
            position = min(max(position, number(0)), top)
            cell = int(position)
            fraction = position - number(cell)
            _add_tap(taps, bin, cell, (one - fraction) / samples)
            if fraction > 0:
                _add_tap(taps, bin, cell + 1, fraction / samples)


@compiled(fastmath=False)
def _taps(axis: np.ndarray, bins: int, size: int, by_bin: ByBin, by_cell: ByCell) -> int:
    """Fills the taps of an axis by bin and by cell; returns the number of cells."""
    counts, cells, weights = by_bin
    cell_counts, cell_ids, cell_bins, cell_weights = by_cell
    _taps_of_bins(axis, bins, size, by_bin)
    used = 0
    for bin in range(bins):
        for k in range(counts[bin]):
            at = used
            for back in range(1, min(3, used) + 1):
                if cell_ids[used - back] == cells[bin, k]:
                    at = used - back
                    break
            if at == len(cell_ids):  # impossible: there is room for all different cells
                continue
            if at == used:
                used += 1
                cell_ids[at] = cells[bin, k]
                cell_counts[at] = 0
            cell_bins[at, cell_counts[at]] = bin
            cell_weights[at, cell_counts[at]] = weights[bin, k]
            cell_counts[at] += 1
    return used


@compiled(fastmath=False)
def _by_bin(bins: int, taps: int, like: np.ndarray) -> ByBin:
    """Allocates the taps of an axis by bin: counts, cells, weights."""
    counts = np.empty(bins, np.int64)
    return counts, np.empty((bins, taps), np.int64), np.empty((bins, taps), like.dtype)


@compiled(fastmath=False)
def _by_cell(bins: int, taps: int, size: int, like: np.ndarray) -> ByCell:
    """Allocates the taps of an axis by cell: counts, cells, bins, weights."""
    cells = min(bins * taps, size)
    counts, ids = np.empty(cells, np.int64), np.empty(cells, np.int64)
    return counts, ids, np.empty((cells, bins), np.int64), np.empty((cells, bins), like.dtype)


@compiled(fastmath=FUSED)
def emit(out: np.ndarray, line: int, channels_last: bool, values: np.ndarray) -> None:
    """Writes ``values`` (bins, C) as a RoI's output."""
    bins, channels = values.shape
    if channels_last:
        target, source = out[line].reshape(-1), values.reshape(-1)
        for i in range(bins * channels):
            store(target, i, source[i])
        return
    for first in range(0, channels, 8):  # eight channels: as many rows at a time
        targets = out[line, first : first + 8]
        for bin in range(bins):
            source = values[bin][first : first + 8]
            for c in range(len(source)):
                store(targets[c], bin, source[c])


@compiled(fastmath=FUSED)
def mean_forward(
    maps: np.ndarray, out: np.ndarray, channels_last: bool, rois: Rois, bins: Bins, taps: int
) -> None:
    """Mean of each bin's samples; ``taps``: the most cells that a bin reads along an axis."""
    (order, images, axes), (rows, columns) = rois, bins
    height, width, channels = maps.shape[1:]
    zero = axes.dtype.type(0)
    x_taps, y_taps = _by_bin(columns, taps, axes), _by_bin(rows, taps, axes)
    x_counts, x_cells, x_weights = x_taps
    lines = _by_cell(rows, taps, height, axes)
    line_counts, line_ids, line_bins, line_weights = lines
    across = np.empty((columns, channels), axes.dtype)  # one feature row, cut into columns
    sums = np.empty((rows * columns, channels), axes.dtype)
    across_flat, sums_flat = across.reshape(-1), sums.reshape((rows, columns * channels))
    for r in order:
        _taps_of_bins(axes[r, 0], columns, width, x_taps)
        used = _taps(axes[r, 1], rows, height, y_taps, lines)
        sums[:] = zero
        for y in range(used):
            features = maps[images[r], line_ids[y]]
            for column in range(columns):
                target, count = across[column], x_counts[column]
                if count < 2:
                    target[:] = zero
                for t in range(0, count - 1, 2):
                    a, b = features[x_cells[column, t]], features[x_cells[column, t + 1]]
                    v, w = x_weights[column, t], x_weights[column, t + 1]
                    if t == 0:
                        for c in range(channels):
                            target[c] = v * load(a[c]) + w * load(b[c])
                    else:
                        for c in range(channels):
                            target[c] += v * load(a[c]) + w * load(b[c])
                if count % 2:
                    a, v = features[x_cells[column, count - 1]], x_weights[column, count - 1]
                    for c in range(channels):
                        target[c] += v * load(a[c])
            for t in range(line_counts[y]):
                total, w = sums_flat[line_bins[y, t]], line_weights[y, t]
                for c in range(columns * channels):
                    total[c] += w * across_flat[c]
        emit(out, r, channels_last, sums)


@compiled(fastmath=FUSED)
def max_forward(
    maps: Any, out: Any, channels_last: bool, rois: Rois, bins: Bins, n: int, chosen: Any
) -> None:
    """Max of the n x n bilinear samples of each bin.

    ``chosen`` (R, bins, C), unless R is 0, gets the number of the largest sample, the first of
    equal ones. NaN is larger than any number.
    """
    (order, images, axes), (rows, columns) = rois, bins
    height, width, channels = maps.shape[1:]
    y_taps, x_taps = _by_bin(rows * n, 2, axes), _by_bin(columns * n, 2, axes)
    y_counts, y_cells, y_weights = y_taps
    x_counts, x_cells, x_weights = x_taps
    best, sample = np.empty((rows * columns, channels), axes.dtype), np.empty(channels, axes.dtype)
    zero, track = axes.dtype.type(0), len(chosen) > 0
    for r in order:
        _taps_of_bins(axes[r, 0], columns * n, width, x_taps)
        _taps_of_bins(axes[r, 1], rows * n, height, y_taps)
        for bin in range(rows * columns):
            largest = best[bin]
            for k in range(n * n):
                y, x = bin // columns * n + k // n, bin % columns * n + k % n
                last_y, last_x = y_counts[y] - 1, x_counts[x] - 1
                if last_y < 0 or last_x < 0:
                    sample[:] = zero
                else:
                    above = maps[images[r], y_cells[y, 0]]
                    below = maps[images[r], y_cells[y, last_y]]
                    a, b = above[x_cells[x, 0]], above[x_cells[x, last_x]]
                    d, e = below[x_cells[x, 0]], below[x_cells[x, last_x]]
                    top, left = y_weights[y, 0], x_weights[x, 0]
                    bottom = y_weights[y, 1] if last_y else zero
                    right = x_weights[x, 1] if last_x else zero
                    p, q, s, t = top * left, top * right, bottom * left, bottom * right
                    for c in range(channels):
                        value = p * load(a[c]) + q * load(b[c])
                        sample[c] = value + s * load(d[c]) + t * load(e[c])
                if k == 0:
                    largest[:] = sample
                    if track:
                        chosen[r, bin] = 0
                elif track:
                    taken = chosen[r, bin]
                    for c in range(channels):
                        value = sample[c]
                        larger = (value > largest[c]) | (value != value)
                        largest[c] = value if larger else largest[c]
                        taken[c] = np.uint8(k) if larger else taken[c]
                else:
                    for c in range(channels):
                        value = sample[c]
                        larger = (value > largest[c]) | (value != value)
                        largest[c] = value if larger else largest[c]
        emit(out, r, channels_last, best)


@compiled(fastmath=FUSED)
def _add_chosen(
    gradients: Any, chosen: Any, line: int, columns: int, n: int, weight: Any, target: Any
) -> None:
    """Adds to each sample of a row, ``target`` (columns n, C), its bin's gradient if chosen."""
    channels = target.shape[1]
    for column in range(columns):
        bin = line // n * columns + column
        source, taken = gradients[bin], chosen[bin]
        for m in range(n):
            k, sums = np.uint8(line % n * n + m), target[column * n + m]
            for c in range(channels):
                sums[c] += weight * load(source[c]) if taken[c] == k else 0


@compiled(fastmath=FUSED)
def samples_backward(
    grads: np.ndarray,
    gradients: np.ndarray,
    channels_last: bool,
    rois: Rois,
    bins: Bins,
    chosen: np.ndarray,
    samples: tuple[int, int],
    first: int,
    last: int,
) -> None:
    """Gradient of a mean (n = 0) or a max (n > 0) for rows [first, last) of the (N H) rows.

    ``grads`` (N, H, W, C) are those of the maps, overwritten in these rows; ``gradients`` are those
    of the outputs; ``chosen`` is from :func:`max_forward`; ``samples`` is (taps, n).
    """
    (order, images, axes), (rows, columns), (taps, n) = rois, bins, samples
    height, width, channels = grads.shape[1:]
    number = max(n, 1)
    zero = axes.dtype.type(0)
    y_taps = _by_bin(rows * number, taps, axes)
    x_taps = _by_bin(columns * number, taps, axes)
    lines = _by_cell(rows * number, taps, height, axes)
    cells = _by_cell(columns * number, taps, width, axes)
    line_counts, line_ids, line_bins, line_weights = lines
    cell_counts, cell_ids, cell_bins, cell_weights = cells
    across = np.empty((columns * number, channels), axes.dtype)
    across_flat = across.reshape(-1)
    given = np.empty((rows * columns, channels), gradients.dtype)
    for line in range(first, last):
        grads[line // height, line % height] = zero
    for r in order:
        start = images[r] * height
        if start + height <= first or start >= last:
            continue
        used = _taps(axes[r, 1], rows * number, height, y_taps, lines)
        used_across = -1
        for y in range(used):
            if not first <= start + line_ids[y] < last:
                continue
            if used_across < 0:
                used_across = _taps(axes[r, 0], columns * number, width, x_taps, cells)
                if channels_last:
                    given = gradients[r]
                else:
                    for c in range(channels):
                        source = gradients[r, c]
                        for bin in range(rows * columns):
                            given[bin, c] = source[bin]
            across[:] = zero
            for t in range(line_counts[y]):
                line, w = line_bins[y, t], line_weights[y, t]
                if n:
                    _add_chosen(given, chosen[r], line, columns, n, w, across)
                else:
                    source = given[line * columns : (line + 1) * columns].reshape(-1)
                    for c in range(columns * channels):
                        across_flat[c] += w * load(source[c])
            targets = grads[images[r], line_ids[y]]
            for x in range(used_across):
                target, count = targets[cell_ids[x]], cell_counts[x]
                for t in range(0, count - 1, 2):
                    a, b = across[cell_bins[x, t]], across[cell_bins[x, t + 1]]
                    v, w = cell_weights[x, t], cell_weights[x, t + 1]
                    for c in range(channels):
                        target[c] += v * a[c] + w * b[c]
                if count % 2:
                    a, v = across[cell_bins[x, count - 1]], cell_weights[x, count - 1]
                    for c in range(channels):
                        target[c] += v * a[c]
