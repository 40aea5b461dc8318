"""Detections of a whole data set in a few flat arrays, and as COCO results one image at a time.

Shapes: I images, R detections of them all, K keypoints.

A detection as a Python dict takes about a kilobyte. Here it takes 44 bytes, its run lengths as text
plus 8 bytes, and 24 bytes per keypoint. Numbers are kept as 64-bit floats, which preserves the
results to the last bit. Processes exchange the arrays without pickle.
"""

from __future__ import annotations

import itertools
import json
import math
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.utils import comm
from torch import distributed as dist

from mask_rcnn_repro.errors import DataError

TASK_FIELDS = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}
"""Task to the field of a COCO result that it measures, in the order of evaluation."""

_CHUNK = 1 << 24
"""Bytes that travel between processes at once; a multiple of each number's size."""


class Detections:
    """Detections of some images, appended image by image."""

    def __init__(self) -> None:
        self.image_ids: list[Any] = []  # in the order in which they came; also without detections
        self.tasks = {"bbox"}  # what the model predicts, of TASK_FIELDS
        self.classes = array("i")  # (R,) the model's class indices
        self.scores = array("d")  # (R,)
        self._starts = array("q", [0])  # (I + 1) rows
        self._sizes = array("i")  # (I, 2) height and width
        self._boxes = array("d")  # (R, 4) XYWH
        self._masks = bytearray()  # run lengths of all masks, one behind the other
        self._mask_ends = array("q")  # (R,)
        self._keypoints = array("d")  # (R, 3K)

    def __len__(self) -> int:
        return len(self.scores)

    def append(
        self,
        image_id: Any,
        height: int,
        width: int,
        results: Sequence[Mapping[str, Any]],
        tasks: Iterable[str],
    ) -> None:
        """Adds an image.

        Args:
            image_id: Its id, a number or text.
            height: Height of the original image in pixels.
            width: Width of the original image in pixels.
            results: As :func:`~.masks.rle.instances_to_results` gives them; may
                be empty.
            tasks: What the model predicts; results hold these tasks' fields.

        Raises:
            DataError: The model predicts masks or keypoints on some images only.
        """
        self.tasks |= set(tasks)
        for result in results:
            self.classes.append(result["category_id"])
            self.scores.append(result["score"])
            self._boxes.extend(result["bbox"])
            if "segmentation" in result:
                self._masks += result["segmentation"]["counts"].encode("ascii")
                self._mask_ends.append(len(self._masks))
            self._keypoints.extend(result.get("keypoints", ()))
        self.image_ids.append(image_id)
        self._starts.append(len(self))
        self._sizes.extend((height, width))
        if len(self._mask_ends) not in (0, len(self)) or len(self._keypoints) % max(len(self), 1):
            raise DataError(
                f"The model predicted masks or keypoints for some images and others not, such as "
                f"image {image_id!r}; it must predict the same for all."
            )

    def rows(self, index: int) -> range:
        """Detections of the image at `index` of :attr:`image_ids`."""
        return range(self._starts[index], self._starts[index + 1])

    def results(
        self,
        index: int,
        fields: Collection[str],
        category_ids: Sequence[int],
        as_lists: bool = True,
    ) -> Iterator[dict[str, Any]]:
        """Yields the COCO results of one image.

        Args:
            index: Index of the image in :attr:`image_ids`.
            fields: Some of `image_id`, `category_id`, `score`, `bbox`, `segmentation` and
                `keypoints`. The results have them in this order.
            category_ids: Category id of each class.
            as_lists: Whether boxes and keypoints are lists, as in JSON. If False they are arrays,
                which take a quarter of the time and memory.
        """
        size = list(self._sizes[2 * index : 2 * index + 2])
        numbers: Callable[[array[float]], Any] = array.tolist if as_lists else lambda values: values
        points = len(self._keypoints) // max(len(self), 1)
        getters: dict[str, Callable[[int], Any]] = {
            "image_id": lambda row: self.image_ids[index],
            "category_id": lambda row: category_ids[self.classes[row]],
            "score": lambda row: self.scores[row],
            "bbox": lambda row: numbers(self._boxes[4 * row : 4 * row + 4]),
            "segmentation": lambda row: {"size": size[:], "counts": self._counts(row)},
            "keypoints": lambda row: numbers(self._keypoints[points * row : points * (row + 1)]),
        }
        chosen = [(field, getters[field]) for field in fields]
        for row in self.rows(index):
            yield {field: get(row) for field, get in chosen}

    def _counts(self, row: int) -> str:
        begin = self._mask_ends[row - 1] if row else 0
        return self._masks[begin : self._mask_ends[row]].decode("ascii")

    def _columns(self) -> list[array[Any] | bytearray]:
        return [
            *(self.classes, self.scores, self._starts, self._sizes),
            *(self._boxes, self._masks, self._mask_ends, self._keypoints),
        ]


def gather_detections(own: Detections) -> list[Detections]:
    """Brings the detections of all processes to the first, one array at a time.

    Collective.

    Returns:
        A part for each process, in their order; empty on all processes but the first.
    """
    if comm.get_world_size() == 1:
        return [own]
    group = comm._get_global_gloo_group()
    if not comm.is_main_process():
        head = bytearray(json.dumps([sorted(own.tasks), own.image_ids]).encode())
        for column in (head, *own._columns()):
            view = memoryview(column).cast("B")
            dist.send(torch.tensor([len(view)]), 0, group=group)
            for begin in range(0, len(view), _CHUNK):
                chunk = torch.frombuffer(view[begin : begin + _CHUNK], dtype=torch.uint8)
                dist.send(chunk, 0, group=group)
        return []
    return [own, *(_received(rank, group) for rank in range(1, comm.get_world_size()))]


def _received(rank: int, group: Any) -> Detections:
    part = Detections()
    head = bytearray()
    part._starts = array("q")
    for column in (head, *part._columns()):
        length = torch.zeros(1, dtype=torch.int64)
        dist.recv(length, rank, group=group)
        for begin in range(0, int(length), _CHUNK):
            chunk = torch.empty(min(_CHUNK, int(length) - begin), dtype=torch.uint8)
            dist.recv(chunk, rank, group=group)
            content = memoryview(chunk.numpy())
            if isinstance(column, bytearray):
                column += content
            else:
                column.frombytes(content)
    tasks, part.image_ids = json.loads(head)
    part.tasks = set(tasks)
    return part


class ResultStream:
    """COCO results of one task, generated at each iteration.

    Iterating yields one dict per detection, ordered by image and then as the model gave them.

    Args:
        parts: Detections. Of an image that occurs more than once, the last occurrence counts.
        task: A key of :data:`TASK_FIELDS`.
        image_ids: Images to take, in this order. All must be in `parts`.
        category_ids: Category id of each class.
        with_box: Whether results have the box beside the task's own field. Mask results must not:
            pycocotools would take the box's area for the mask's. For keypoints Detectron2 keeps it
            when measuring.
    """

    def __init__(
        self,
        parts: Sequence[Detections],
        task: str,
        *,
        image_ids: Sequence[Any],
        category_ids: Sequence[int],
        with_box: bool = False,
    ) -> None:
        own = TASK_FIELDS[task]
        # keys of a result
        self.fields = ["image_id", "category_id", "score", own, *(["bbox"] if with_box else [])]
        self.image_ids = list(image_ids)
        self.file: Path | None = None  # a JSON file that holds just these results, if there is one
        self._parts = parts
        self._category_ids = list(category_ids)
        self._kept = set(self._category_ids)
        places = {
            image_id: (part, index)
            for part in parts
            for index, image_id in enumerate(part.image_ids)
        }
        self._places = [places[image_id] for image_id in self.image_ids]
        counts = (len(part.rows(index)) for part, index in self._places)
        self._ends = list(itertools.accumulate(counts))

    def __len__(self) -> int:
        if self._kept >= set(self._category_ids):
            return self._ends[-1] if self._ends else 0
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for number in range(len(self._places)):
            yield from self._of_image(number)

    def _of_image(
        self, number: int, fields: Collection[str] | None = None, as_lists: bool = True
    ) -> Iterator[dict[str, Any]]:
        part, index = self._places[number]
        results = part.results(index, fields or self.fields, self._category_ids, as_lists)
        if self._kept >= set(self._category_ids):
            return results
        return (r for r in results if r["category_id"] in self._kept)

    def with_arrays(self) -> Iterator[dict[str, Any]]:
        """Iterates like the stream itself. Boxes and keypoints are arrays rather than lists."""
        for number in range(len(self._places)):
            yield from self._of_image(number, as_lists=False)

    @property
    def keypoint_counts(self) -> set[int]:
        """The numbers of keypoints a result, of all parts; one number if they fit each other."""
        return {len(part._keypoints) // len(part) // 3 for part in self._parts if len(part)}

    @property
    def finite(self) -> bool:
        """Whether all scores are finite."""
        return all(map(math.isfinite, itertools.chain(*(part.scores for part in self._parts))))

    def only(self, category_ids: Collection[int]) -> ResultStream:
        """The results of some categories."""
        if set(self._category_ids) <= set(category_ids):
            return self
        chosen = object.__new__(ResultStream)
        chosen.__dict__.update(self.__dict__)
        chosen._kept = self._kept & set(category_ids)
        chosen.file = None
        return chosen

    def write(self, file: Any, fields: Collection[str] | None = None) -> None:
        """Writes the results to an open text file, image by image, as ``json.dumps`` of all would.

        `fields` of a result are written, all of them by default.
        """
        file.write("[")
        separator = ""
        for number in range(len(self._places)):
            if text := json.dumps(list(self._of_image(number, fields)))[1:-1]:
                file.write(separator + text)
                separator = ", "
        file.write("]")
