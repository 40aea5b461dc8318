"""Views of one image for test-time augmentation: resized, and each size mirrored.

Shapes: image (C, H, W), a view of it (C, h, w); R boxes as absolute XYXY, in the frame of the image
or of the view.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby, islice
from typing import TypeVar

import numpy as np
import torch
from detectron2.data.transforms import ResizeShortestEdge, ResizeTransform

Item = TypeVar("Item")
Prepared = TypeVar("Prepared")


@dataclass(frozen=True)
class View:
    """One size of an image, mirrored or not.

    Coordinates are converted in float64. float32 coordinates of a view are then recovered exactly
    after conversion to the image's frame and back.
    """

    image_size: tuple[int, int]  # (H, W)
    size: tuple[int, int]  # (h, w) in whole pixels; the scales of the two edges may differ slightly
    flip: bool  # whether the view is mirrored horizontally

    def render(self, image: torch.Tensor) -> torch.Tensor:
        """Resizes as Detectron2's mapper does (PIL, bilinear) and mirrors: to (C, h, w) on the CPU.

        `image` is (C, H, W), uint8 for results that equal the mapper's.
        """
        pixels = image.cpu().permute(1, 2, 0).numpy()
        resized = ResizeTransform(*self.image_size, *self.size).apply_image(pixels)
        if self.flip:
            resized = resized[:, ::-1]
        return torch.from_numpy(np.array(resized.transpose(2, 0, 1), order="C"))

    def boxes_in_view(self, boxes: torch.Tensor) -> torch.Tensor:
        """Converts (R, 4) boxes of the image to the view's frame, float64."""
        boxes = boxes.double() * self._scale(boxes).repeat(2)
        return self._mirrored(boxes) if self.flip else boxes

    def boxes_in_image(self, boxes: torch.Tensor) -> torch.Tensor:
        """Converts (R, 4) boxes of the view to the image's frame, float64."""
        boxes = boxes.double()
        return (self._mirrored(boxes) if self.flip else boxes) / self._scale(boxes).repeat(2)

    def points_in_image(self, points: torch.Tensor) -> torch.Tensor:
        """Converts (..., 2) x and y of the view to the image's frame, float64."""
        points = points.double()
        if self.flip:
            points = torch.stack([self.size[1] - points[..., 0], points[..., 1]], dim=-1)
        return points / self._scale(points)

    def _mirrored(self, boxes: torch.Tensor) -> torch.Tensor:
        x1, y1, x2, y2 = boxes.unbind(dim=1)
        return torch.stack([self.size[1] - x2, y1, self.size[1] - x1, y2], dim=1)

    def _scale(self, like: torch.Tensor) -> torch.Tensor:
        """Factors of x and y from the image to the view."""
        height, width = (new / old for new, old in zip(self.size, self.image_size, strict=True))
        return torch.tensor([width, height], dtype=torch.float64, device=like.device)


def make_views(
    image_size: tuple[int, int], sizes: Sequence[int], flip: bool, max_size: int
) -> list[View]:
    """Lists the views of an image (H, W): each size, followed by its mirrored view if wanted.

    `sizes` are shorter edges in pixels. `max_size` limits the longer edge and takes precedence.
    """
    found = []
    for size in sizes:
        shape = ResizeShortestEdge.get_output_shape(*image_size, size, max_size)
        found += [View(image_size, shape, mirrored) for mirrored in (False, True)[: 1 + flip]]
    return found


def batches(views: Iterable[View], most: int) -> Iterator[list[View]]:
    """Groups views into batches of at most `most` views of one size, in order.

    Views of different sizes would need padding, which changes features at their borders. Detections
    would then depend on the batches.
    """
    for _, same in groupby(views, key=lambda view: view.size):
        while batch := list(islice(same, most)):
            yield batch


def one_ahead(
    items: Iterable[Item], prepare: Callable[[Item], Prepared]
) -> Generator[Prepared, None, None]:
    """Yields `prepare(item)` of each item. A thread computes the next one meanwhile.

    The caller's thread takes the items, one in advance. An error of `prepare` comes in its turn.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="views") as pool:
        started = (pool.submit(prepare, item) for item in items)
        current = next(started, None)
        while current is not None:
            following = next(started, None)
            yield current.result()
            current = following
