"""Compiled loops of `keypoint_metrics.py`; imported only where Numba
is.

Shapes: G objects, D detections, K keypoints, P groups (the objects and detections of one category
in one image, each a range of rows), T OKS thresholds, A area ranges. The arithmetic is that of
pycocotools' ``COCOeval`` operation by operation, so that an OKS is the same to the last bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mask_rcnn_repro.utils.compiled import compiled


@compiled(error_model="numpy")
def _outside(value: float, low: float, high: float) -> float:
    """Distance to a range; NaN stays, as with ``np.max``."""
    below, above = low - value, value - high
    return (below if not below <= 0 else 0.0) + (above if not above <= 0 else 0.0)


@compiled(error_model="numpy")
def exponents(
    groups: Any,
    first: int,
    last: int,
    objects: Any,
    object_areas: Any,
    object_boxes: Any,
    detections: Any,
    variances: Any,
    out: Any,
) -> int:
    """What OKS takes the exponential of: -distance^2 / (2 variance area), a keypoint each.

    Of an object with labelled keypoints those count; of another all, by their distance to its box
    enlarged to three times its width and height.

    Args:
        groups: (P, 4) first object, last + 1, first detection, last + 1.
        first: group to begin with.
        last: group to end before.
        objects: (G, K, 3) x, y and visibility.
        object_areas: (G,)
        object_boxes: (G, 4) XYWH.
        detections: (D, K, 3)
        variances: (K,) (2 sigma)^2.
        out: written from its beginning, group by group, object by object, detection by detection.

    Returns:
        How many numbers were written.
    """
    tiny = np.spacing(1.0)
    used = 0
    for group in range(first, last):
        for row in range(groups[group, 0], groups[group, 1]):
            labelled = 0
            for point in range(len(variances)):
                labelled += objects[row, point, 2] > 0
            x, y, width, height = object_boxes[row]
            area = object_areas[row] + tiny
            for column in range(groups[group, 2], groups[group, 3]):
                for point in range(len(variances)):
                    px, py = detections[column, point, 0], detections[column, point, 1]
                    if labelled == 0:
                        dx = _outside(px, x - width, x + width * 2)
                        dy = _outside(py, y - height, y + height * 2)
                    elif objects[row, point, 2] > 0:
                        dx, dy = px - objects[row, point, 0], py - objects[row, point, 1]
                    else:
                        continue
                    out[used] = -((dx * dx + dy * dy) / variances[point] / area / 2)
                    used += 1
    return used


@compiled(error_model="numpy")
def _sum(values: Any, start: int, count: int) -> float:
    """``np.sum`` of up to 128 numbers, added up in its order."""
    total = 0.0
    if count < 8:
        for index in range(start, start + count):
            total += values[index]
        return total
    r0, r1, r2, r3 = values[start], values[start + 1], values[start + 2], values[start + 3]
    r4, r5, r6, r7 = values[start + 4], values[start + 5], values[start + 6], values[start + 7]
    whole = count - count % 8
    for index in range(start + 8, start + whole, 8):
        r0 += values[index]
        r1 += values[index + 1]
        r2 += values[index + 2]
        r3 += values[index + 3]
        r4 += values[index + 4]
        r5 += values[index + 5]
        r6 += values[index + 6]
        r7 += values[index + 7]
    total = ((r0 + r1) + (r2 + r3)) + ((r4 + r5) + (r6 + r7))
    for index in range(start + whole, start + count):
        total += values[index]
    return total


@compiled(error_model="numpy")
def match(
    groups: Any,
    first: int,
    last: int,
    objects: Any,
    object_areas: Any,
    crowds: Any,
    ignored: Any,
    detection_areas: Any,
    similarities: Any,
    thresholds: Any,
    area_ranges: Any,
    tp: Any,
    fp: Any,
) -> None:
    """Matches detections to objects at each threshold, for each range of areas.

    Args:
        groups: (P, 4) as for :func:`exponents`; detections best first.
        first: group to begin with.
        last: group to end before.
        objects: (G, K, 3)
        object_areas: (G,)
        crowds: (G,) whether several detections may match.
        ignored: (G,) whether it counts for no area.
        detection_areas: (D,)
        similarities: what :func:`exponents` wrote of these groups, its exponential taken.
        thresholds: (T,)
        area_ranges: (A, 2) lowest and highest.
        tp: out, (A, T, D) set where a detection matches an object that counts.
        fp: out, (A, T, D) set where it is wrong; neither is set where it is ignored.
    """
    used = 0
    for group in range(first, last):
        start, stop, begin, end = groups[group]
        oks = np.empty((end - begin, stop - start))
        for row in range(stop - start):
            count = 0
            for point in range(objects.shape[1]):
                count += objects[start + row, point, 2] > 0
            if count == 0:
                count = objects.shape[1]
            for column in range(end - begin):
                oks[column, row] = _sum(similarities, used, count) / count
                used += count
        for size in range(len(area_ranges)):
            low, high = area_ranges[size]
            # those that count come first, each kind in its order
            order = np.empty(stop - start, np.int64)
            counting = 0
            for wanted in (False, True):
                for row in range(start, stop):
                    area = object_areas[row]
                    if (ignored[row] or area < low or area > high) == wanted:
                        order[counting] = row - start
                        counting += 1
                if not wanted:
                    valid = counting
            for level in range(len(thresholds)):
                taken = np.zeros(stop - start, np.bool_)
                for column in range(begin, end):
                    best = thresholds[level]
                    found = -1
                    for place in range(stop - start):
                        row = order[place]
                        if taken[row] and not crowds[start + row]:
                            continue
                        if 0 <= found < valid <= place:
                            break  # one that counts is better than any that does not
                        if oks[column - begin, row] < best:
                            continue
                        best = oks[column - begin, row]
                        found = place
                    if found >= 0:
                        taken[order[found]] = True
                        tp[size, level, column] = found < valid
                    else:
                        area = detection_areas[column]
                        fp[size, level, column] = not (area < low or area > high)


@compiled(error_model="numpy")
def accumulate(tp: Any, fp: Any, order: Any, number: int, recalls: Any, out: Any) -> float:
    """Interpolated precision at some recalls, of one category, threshold and area range.

    Args:
        tp: (D,) whether a detection is right.
        fp: (D,) whether it is wrong.
        order: (D,) detections, best first.
        number: of objects that count, at least one.
        recalls: (R,) ascending.
        out: (R,) precision at the lowest recall that reaches each; zero where none does.

    Returns:
        The highest recall.
    """
    tiny = np.spacing(1.0)
    count = len(order)
    reached = np.empty(count)
    precision = np.empty(count)
    tp_sum = fp_sum = 0.0
    for place in range(count):
        tp_sum += tp[order[place]]
        fp_sum += fp[order[place]]
        reached[place] = tp_sum / number
        precision[place] = tp_sum / (fp_sum + tp_sum + tiny)
    for place in range(count - 1, 0, -1):  # never rising: the best at this recall or a higher one
        if precision[place] > precision[place - 1]:
            precision[place - 1] = precision[place]
    place = 0
    for index in range(len(recalls)):
        while place < count and reached[place] < recalls[index]:
            place += 1
        out[index] = precision[place] if place < count else 0.0
    return tp_sum / number
