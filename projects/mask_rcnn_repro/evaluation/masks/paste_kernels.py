"""Compiled loops of :mod:`mask_rcnn_repro.evaluation.masks.paste`; imported only where Numba is.

Shapes: R instances, M mask side, (H, W) image size, D pixels in doubt.

A pasted pixel is bilinear in the mask, so along an image column, between the centers of two
mask rows, it changes linearly: where both ends are clearly inside (or outside), all pixels between
are, without a look at them. What is within rounding of the threshold is left to the caller.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mask_rcnn_repro.utils.compiled import compiled

MAX_DOUBTS = 1024
"""Pixels of an instance that may be in doubt, see :func:`encode_range`."""

_ONE, _TWO, _HALF, _ZERO = np.float32(1), np.float32(2), np.float32(0.5), np.float32(0)


@compiled(error_model="numpy")
def _bounds(low: Any, high: Any, size: int) -> tuple[int, int]:
    """First and last + 1 of the pixels that Detectron2 samples along an axis; maybe reversed."""
    first = np.floor(low) - _ONE
    last = np.ceil(high) + _ONE
    # compared as floats: huge ones fit no integer
    start = 0 if not first > 0 else (int(first) if first <= size else size + 1)
    stop = size if not last < size else (int(last) if last > -1 else -1)
    return start, stop


@compiled(error_model="numpy")
def _locate(
    low: Any, high: Any, start: int, stop: int, side: int, grid: Any, cells: Any, weights: Any
) -> None:
    """Where pixels [start, stop) lie in the mask, as Detectron2 and ``grid_sample`` compute it.

    The box reaches from `low` to `high` along the axis. Fills `grid` (-1 to 1 over the box),
    `cells` (mask row before the pixel, -1 to M - 1; -2 is outside) and `weights` (share of the row
    after that one).
    """
    extent = high - low
    for index in range(stop - start):
        center = np.float32(start + index) + _HALF
        value = (center - low) / extent * _TWO - _ONE
        grid[index] = value
        place = (value + _ONE) * (np.float32(side) / _TWO) - _HALF
        cell = np.floor(place)
        if cell >= -_ONE and cell < side:
            cells[index] = int(cell)
            weights[index] = place - cell
        else:  # also NaN
            cells[index] = -2
            weights[index] = _ZERO


@compiled()
def _compress(changes: Any, count: int, pixels: int, buffer: Any, used: int) -> int:
    """Writes the lengths of runs in COCO's code: 5 bits a character, lowest first, the 6th says
    that more follow; each length but the first three as the difference to the one before last.

    Runs end at ``changes[:count]``, ascending, and at `pixels`. `buffer` holds `used` characters,
    and has room for 7 a run. Returns how many it holds now.
    """
    begin = earlier = last = 0
    for run in range(count + 1):
        end = changes[run] if run < count else pixels
        length = end - begin
        if length == 0 and run > 0:  # the last run ended with the image
            break
        value = length - earlier if run > 2 else length
        begin, earlier, last = end, last, length
        more = True
        while more:
            bits = value & 0x1F
            value >>= 5
            more = value != -1 if bits & 0x10 else value != 0
            buffer[used] = bits + 48 + (0x20 if more else 0)
            used += 1
    return used


@compiled(error_model="numpy")
def encode_range(
    begin_item: int,
    end_item: int,
    items: Any,
    masks: Any,
    boxes: Any,
    height: int,
    width: int,
    threshold: float,
    starts: Any,
    ends: Any,
    doubts: Any,
    places: Any,
    answers: Any,
) -> Any:
    """Encodes ``items[begin_item:end_item]``, which are indices of instances. `items` is (I,).

    Masks, boxes, size and threshold are those of ``paste.encode_in_boxes``.

    Args by instance, (R,), filled here: `starts` and `ends` of its characters in the result;
    `doubts`, how many pixels are in doubt (MAX_DOUBTS + 1: too many, not encoded). By item:
    `places` (I, P, 2) float32, filled here with the coordinates (x, y) for ``grid_sample`` of the
    first P pixels in doubt, in the order in which they are met; `answers` (I, D), whether the first
    D are inside. The others count as outside.

    Returns:
        The characters of all the items, (C,) uint8.
    """
    side = masks.shape[1]
    buffer = np.empty(4096, np.uint8)
    used = 0
    changes = np.empty(4096, np.int64)
    grid_x = np.empty(width, np.float32)
    grid_y = np.empty(height, np.float32)
    cells_x = np.empty(width, np.int64)
    cells_y = np.empty(height, np.int64)
    weights_x = np.empty(width, np.float32)
    weights_y = np.empty(height, np.float32)
    # mask columns are contiguous; a border of zeros, as grid_sample pads
    padded = np.zeros((side + 2, side + 2), np.float32)
    column = np.empty(side + 2, np.float32)
    kinds = np.empty(side + 2, np.int8)
    # M + 1 pairs of mask rows, and what is above and below
    segment_cells = np.empty(side + 3, np.int64)
    segment_starts = np.empty(side + 4, np.int64)

    for item in range(begin_item, end_item):
        instance = items[item]
        starts[instance] = used
        left, top, right, bottom = boxes[instance]
        x_start, x_stop = _bounds(left, right, width)
        y_start, y_stop = _bounds(top, bottom, height)
        if x_start > x_stop or y_start > y_stop:
            # outside of the image, or upside down: Detectron2 fails on a CPU; on a GPU it always
            # samples all of the image
            x_start, x_stop, y_start, y_stop = 0, width, 0, height
        largest = _ZERO
        strange = False
        for row in range(side):
            for col in range(side):
                value = masks[instance, row, col]
                padded[col + 1, row + 1] = value
                largest = max(largest, abs(value))
                strange |= not np.isfinite(value)
        # Two ways to round that grid_sample may be compiled to move a pixel by less than
        # M / 2^23 mask cells along each axis; interpolating rounds less than eight times.
        slack = np.float32(side * 2.0**-21 + 2.0**-19) * largest
        inside = np.float32(threshold) + slack
        outside = np.float32(threshold) - slack
        if strange:
            doubts[instance] = MAX_DOUBTS + 1
            ends[instance] = used
            continue
        _locate(left, right, x_start, x_stop, side, grid_x, cells_x, weights_x)
        _locate(top, bottom, y_start, y_stop, side, grid_y, cells_y, weights_y)

        # pixel rows between the same two mask rows; the box may be upside down
        segments = 0
        for index in range(y_stop - y_start):
            if index > 0 and cells_y[index] == cells_y[index - 1]:
                continue
            segment_cells[segments] = cells_y[index]
            segment_starts[segments] = index
            segments += 1
        segment_starts[segments] = y_stop - y_start

        # Where runs end; an odd number of ends so far: inside of the mask.
        count = met = 0
        for x in range(x_start, x_stop):
            cell_x = cells_x[x - x_start]
            base = x * height + y_start
            if count + y_stop - y_start + 2 > len(changes):
                changes = np.append(changes, np.empty(len(changes) + height + 2, np.int64))
            if cell_x == -2:
                if count & 1:
                    changes[count] = base
                    count += 1
                continue
            after = weights_x[x - x_start]
            before = _ONE - after
            for row in range(side + 2):
                value = before * padded[cell_x + 1, row] + after * padded[cell_x + 2, row]
                column[row] = value
                kinds[row] = (1 if value >= inside else 0) + (2 if value <= outside else 0)
            for segment in range(segments):
                cell_y = segment_cells[segment]
                kind = 2
                if cell_y != -2:
                    kind = kinds[cell_y + 1] & kinds[cell_y + 2]
                if kind != 0:
                    if (count ^ kind) & 1:
                        changes[count] = base + segment_starts[segment]
                        count += 1
                    continue
                upper = column[cell_y + 1]
                lower = column[cell_y + 2]
                for y in range(segment_starts[segment], segment_starts[segment + 1]):
                    value = upper * (_ONE - weights_y[y]) + lower * weights_y[y]
                    now = value >= inside
                    if not now and not value <= outside:
                        if met < answers.shape[1]:
                            now = answers[item, met]
                        if met < places.shape[1]:
                            places[item, met, 0] = grid_x[x - x_start]
                            places[item, met, 1] = grid_y[y]
                        met += 1
                    if now != (count & 1):
                        changes[count] = base + y
                        count += 1
                if met > MAX_DOUBTS:
                    break
            # the rows below the box, those above it in the next column, or the columns after it
            if count & 1 and (y_stop - y_start < height or x == x_stop - 1):
                changes[count] = base + y_stop - y_start
                count += 1
            if met > MAX_DOUBTS:
                break
        doubts[instance] = min(met, MAX_DOUBTS + 1)
        if met <= MAX_DOUBTS:
            if used + 7 * (count + 1) > len(buffer):
                buffer = np.append(buffer, np.empty(len(buffer) + 7 * (count + 1), np.uint8))
            used = _compress(changes, count, height * width, buffer, used)
        ends[instance] = used
    return buffer[:used]
