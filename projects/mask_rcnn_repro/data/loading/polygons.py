"""Polygon masks of one image in a few arrays: choosing instances copies no polygon.

Detectron2's ``PolygonMasks`` holds lists of lists of arrays, and each choice of instances checks
and copies them all. A training step selects instances twice per image, the first time one entry per
sampled RoI (512). Here a selection is an index on the device of the caller, so polygons cause no
synchronization with a GPU before targets are made: a joint step of two images waits 40 times
instead of 46 (`tests/pretend_cuda`). All targets are rasterized together. On a CPU it is worth less
than 3 % of a step.

Shapes: N instances as chosen, G polygons and P points of the image, M mask side.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.structures import PolygonMasks

from mask_rcnn_repro.utils.transfer import moved

# The type of ``mask_size / box_side`` in Detectron2's rasterization: NumPy 1 and 2 differ.
_RATIO_TYPE = np.asarray(2 / np.float32(1)).dtype
_SHORTEST_SIDE = 0.1


class PolygonArrays(PolygonMasks):
    """Detectron2's ``PolygonMasks``, stored as arrays. It behaves and rasterizes in the same way.

    Args:
        polygons: Polygons [x0, y0, x1, y1, ...] of each instance in pixels.

    Raises:
        ValueError: A polygon has fewer than three points or half a point, as in ``PolygonMasks``.
    """

    def __init__(self, polygons: list[list[np.ndarray]]) -> None:
        checked = PolygonMasks(polygons).polygons
        flat = [polygon for instance in checked for polygon in instance]
        self._set(
            np.concatenate(flat).reshape(-1, 2) if flat else np.zeros((0, 2)),
            [len(polygon) // 2 for polygon in flat],
            [len(instance) for instance in checked],
        )

    @classmethod
    def from_points(
        cls, points: np.ndarray, points_per_polygon: Sequence[int], polygons_each: Sequence[int]
    ) -> PolygonArrays:
        """Makes masks from arrays without checking single polygons.

        Args:
            points: (P, 2) float64, concatenated points of all polygons. They are not copied.
            points_per_polygon: (G,) each at least 3.
            polygons_each: (N,) number of polygons of each instance.
        """
        masks = cls.__new__(cls)
        masks._set(points, points_per_polygon, polygons_each)
        return masks

    def _set(
        self, points: np.ndarray, points_per_polygon: Sequence[int], polygons_each: Sequence[int]
    ) -> None:
        self._points = points
        self._point_starts = _starts(points_per_polygon)
        self._polygon_starts = _starts(polygons_each)
        self._chosen = torch.arange(len(polygons_each))

    @property
    def polygons(self) -> list[list[np.ndarray]]:
        """For each instance its polygons (2 n,), float64; views of the stored points."""
        points, polygons = self._point_starts.tolist(), self._polygon_starts.tolist()
        return [
            [
                self._points[points[g] : points[g + 1]].reshape(-1)
                for g in range(polygons[i], polygons[i + 1])
            ]
            for i in self._chosen.tolist()
        ]

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, item: int | slice | list[int] | torch.Tensor) -> PolygonArrays:
        """Chooses instances, as ``PolygonMasks`` does; a tensor may be on any device."""
        if isinstance(item, int):
            item = [item]
        if isinstance(item, torch.Tensor):
            if item.dtype not in (torch.bool, torch.int32, torch.int64):
                raise ValueError(f"Unsupported tensor dtype={item.dtype} for indexing!")
            chosen = moved(self._chosen, item.device)[item]
        else:
            chosen = self._chosen[item]
        found = type(self).__new__(type(self))
        found.__dict__.update(self.__dict__, _chosen=chosen)
        return found

    def nonempty(self) -> torch.Tensor:
        """(N,) bool, whether an instance has polygons."""
        return torch.from_numpy(np.diff(self._polygon_starts) > 0)[self._chosen.cpu()]

    def crop_and_resize(self, boxes: torch.Tensor, mask_size: int) -> torch.Tensor:
        """The part of each mask inside a box, as ``PolygonMasks.crop_and_resize`` gives it.

        Args:
            boxes: (N, 4) XYXY in pixels, on any device; one for each instance.
            mask_size: M.

        Returns:
            (N, M, M) bool on the boxes' device, by COCO's rule for polygons.
        """
        assert len(boxes) == len(self), f"{len(boxes)} != {len(self)}"
        numbers = self._chosen.to(boxes)[:, None]  # one transfer; whole numbers stay exact
        packed = torch.cat([boxes.detach(), numbers], dim=1).cpu().numpy()
        sides, chosen = packed[:, :4], packed[:, 4].astype(np.int64)
        which, owner = _ranges(self._polygon_starts, chosen)
        rows, polygon = _ranges(self._point_starts, which)
        counts = np.bincount(polygon, minlength=len(which))
        scaled = self._points[rows]
        box = owner[polygon]
        for axis in (0, 1):
            scaled[:, axis] -= sides[box, axis]
            side = sides[:, 2 + axis] - sides[:, axis]
            ratio = (mask_size / side.clip(_SHORTEST_SIDE).astype(_RATIO_TYPE)).astype(np.float64)
            ratio[side < _SHORTEST_SIDE] = mask_size / _SHORTEST_SIDE
            scaled[:, axis] *= ratio[box]
        flat, ends = scaled.reshape(-1), np.cumsum(2 * counts).tolist()
        pieces = [flat[a:b] for a, b in zip([0, *ends], ends, strict=False)]
        runs = mask_util.frPyObjects(pieces, mask_size, mask_size) if pieces else []
        # Several runs may belong to one instance.
        masks = np.zeros((len(chosen), mask_size, mask_size), np.uint8)
        bounds = np.searchsorted(owner, np.arange(len(chosen) + 1)).tolist()
        filled = [n for n in range(len(chosen)) if bounds[n] < bounds[n + 1]]
        merged = []
        for n in filled:
            start, end = bounds[n], bounds[n + 1]
            merged.append(runs[start] if end == start + 1 else mask_util.merge(runs[start:end]))
        if merged:
            masks[filled] = mask_util.decode(merged).transpose(2, 0, 1)
        return moved(torch.from_numpy(masks), boxes.device).bool()


def _starts(counts: Sequence[int]) -> np.ndarray:
    """(n + 1,) int64: where each of n runs of these lengths begins, and the end."""
    return np.concatenate([[0], np.cumsum(np.asarray(counts, np.int64))]).astype(np.int64)


def _ranges(starts: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Members of the chosen runs one after the other, and of which choice each is one."""
    counts = starts[chosen + 1] - starts[chosen]
    owner = np.repeat(np.arange(len(chosen)), counts)
    before = np.cumsum(counts) - counts
    return np.arange(len(owner)) - before[owner] + starts[chosen][owner], owner
