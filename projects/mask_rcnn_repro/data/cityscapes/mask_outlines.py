"""Masks to polygons that cover exactly the same pixels.

Coordinates are continuous: the pixel in column x and row y is the square from (x, y) to
(x + 1, y + 1). Outlines run along the edges of pixels, so that nothing is lost: rasterized, they
give the mask again. (Outlines through the centers of the boundary's pixels, as OpenCV's
``findContours`` gives them, lose half a pixel on each side.)

A polygon list cannot express holes: COCO's format takes the union. A region with a hole is
therefore cut in two by a vertical line through the hole, which loses nothing either.
"""

from __future__ import annotations

import numpy as np


def mask_to_polygons(mask: np.ndarray, x: int = 0, y: int = 0) -> list[list[int]]:
    """Returns the outlines of a mask's 4-connected parts.

    Args:
        mask: (H, W), nonzero inside.
        x: Column of the mask's first column, added to all coordinates.
        y: Row of the mask's first row, likewise.

    Returns:
        Polygons [x1, y1, x2, y2, ...] in pixels, with 4 points or more and only at corners,
        without a repeated end. They do not overlap. Empty for an empty mask.
    """
    inside = np.asarray(mask) != 0
    loops = _loops(inside)
    for loop in loops:
        first_x, first_y = loop[0]
        # A loop begins at the first of its corners in reading order: inside lies below and to the
        # right of it, unless the loop surrounds a hole.
        if not inside[first_y, first_x]:
            columns = [corner[0] for corner in loop]
            cut = (min(columns) + max(columns)) // 2
            left = mask_to_polygons(inside[:, :cut], x, y)
            return left + mask_to_polygons(inside[:, cut:], x + cut, y)
    return [[value for u, v in loop for value in (u + x, v + y)] for loop in loops]


def _loops(inside: np.ndarray) -> list[list[tuple[int, int]]]:
    """Returns closed boundaries as lists of corners (column, row), each from its first corner.

    The boundary's corners are where an odd number of the four pixels around a point is inside, and
    where only two diagonal ones are: there two boundaries touch, and the point is two corners. In
    each row of points the boundary runs from the 1st to the 2nd corner, from the 3rd to the 4th
    and so on; in each column likewise. Boundaries are followed from partner to partner.
    """
    padded = np.pad(inside, 1).astype(np.int8)
    above_left, above_right = padded[:-1, :-1], padded[:-1, 1:]
    below_left, below_right = padded[1:, :-1], padded[1:, 1:]
    odd = (above_left + above_right + below_left + below_right) % 2 == 1
    diagonal = (above_left == below_right) & (above_right == below_left)
    touching = diagonal & (above_left != above_right)
    rows, columns = np.nonzero(odd | touching)
    double = touching[rows, columns]
    # Of the two corners at a touching point, one ends a horizontal run from the left (side 0), the
    # other begins one to the right (side 1); they end and begin vertical runs so that each stays
    # with its own pixel: the 4-connected parts come apart.
    falling = above_left[rows, columns] == 1
    copies = np.repeat(np.arange(len(rows)), 1 + double)
    second = np.zeros(len(copies), bool)
    second[1:] = copies[1:] == copies[:-1]
    side_x = second.astype(np.int8)
    side_y = np.where(double[copies], second == falling[copies], False).astype(np.int8)
    rows, columns = rows[copies], columns[copies]
    across = _partners(np.lexsort((side_x, columns, rows)))
    along = _partners(np.lexsort((side_y, rows, columns)))
    points = list(zip(columns.tolist(), rows.tolist(), strict=True))
    visited = bytearray(len(points))
    loops = []
    for start in range(len(points)):
        if visited[start]:
            continue
        loop, corner = [], start
        while not visited[corner]:
            partner = across[corner]
            visited[corner] = visited[partner] = 1
            loop += [points[corner], points[partner]]
            corner = along[partner]
        loops.append(loop)
    return loops


def _partners(order: np.ndarray) -> list[int]:
    """Returns for each corner its partner where neighbors in an order are paired."""
    partners = np.empty(len(order), np.int64)
    partners[order[0::2]] = order[1::2]
    partners[order[1::2]] = order[0::2]
    return partners.tolist()
