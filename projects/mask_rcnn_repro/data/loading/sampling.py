"""The order of training images: an endless sequence of micro-batches that can start anywhere.

The sequence is a function of the seed, the images' aspect ratios and the size of a micro-batch.
Neither the number of workers nor the number of processes changes it: process r of W takes the
micro-batches r, r + W, r + 2W, ... A *draw* is one appearance of one image, numbered from 0; the
augmentation of a draw is seeded by its number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

Draw = tuple[int, int]
"""Index of an image in the data set, and number of the draw."""


class MicroBatchSampler(Sampler):
    """Endless micro-batches of draws, grouped by aspect ratio, from any place of the sequence.

    Each epoch is a permutation of all images. With two groups (wider than high, and the rest, as
    in Detectron2) a micro-batch is complete as soon as its group has enough images; incomplete
    ones are continued in the next epoch, so no image is omitted. Since every epoch has the same
    number of images in each group, the number of micro-batches before any epoch is known without
    walking there.

    Args:
        groups: Group (0 or 1) of each image; equal numbers switch grouping off.
        batch_size: Draws in a micro-batch.
        seed: Seed of the permutations.
        start: Number of the first micro-batch in the global sequence.
        rank: This process.
        world_size: Number of processes.
    """

    def __init__(
        self,
        groups: Sequence[int] | np.ndarray,
        batch_size: int,
        seed: int = 0,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.groups = np.asarray(groups, dtype=np.int64)
        self.batch_size, self.seed, self.start = batch_size, seed, start
        self.rank, self.world_size = rank, world_size
        self._sizes = np.bincount(self.groups, minlength=2)

    def after(self, batches: int) -> MicroBatchSampler:
        """What is left when this process has taken that many micro-batches, without walking."""
        start = self.start + batches * self.world_size
        where = self.rank, self.world_size
        return MicroBatchSampler(self.groups, self.batch_size, self.seed, start, *where)

    def __iter__(self) -> Iterator[list[Draw]]:
        first = self.start + self.rank
        epoch = self._epoch_of(first)
        number = self._batches_before(epoch)
        carried = self._carried(epoch)
        while True:
            batches, carried = self._epoch_batches(epoch, carried)
            for batch in batches:
                if number >= first and (number - first) % self.world_size == 0:
                    yield [(int(index), int(draw)) for index, draw in batch]
                number += 1
            epoch += 1

    def _permutation(self, epoch: int) -> np.ndarray:
        """Draws of an epoch as (N, 2): image index, draw number."""
        size = len(self.groups)
        # RandomState's stream is frozen across numpy versions, Generator's is not.
        order = np.random.RandomState([self.seed, epoch]).permutation(size)
        return np.stack([order, np.arange(size) + epoch * size], axis=1)

    def _batches_before(self, epoch: int) -> int:
        return sum(int(size) * epoch // self.batch_size for size in self._sizes)

    def _epoch_of(self, number: int) -> int:
        """Returns the epoch in which micro-batch `number` is completed, by bisection."""
        low, high = 0, 1
        while self._batches_before(high) <= number:
            low, high = high, high * 2
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._batches_before(middle) <= number else (low, middle)
        return low

    def _carried(self, epoch: int) -> list[np.ndarray]:
        """Draws of the incomplete micro-batch of each group when an epoch begins."""
        carried = [np.zeros((0, 2), dtype=np.int64) for _ in self._sizes]
        wanted = [int(size) * epoch % self.batch_size for size in self._sizes]
        earlier = epoch
        while any(len(have) < want for have, want in zip(carried, wanted, strict=True)):
            earlier -= 1
            draws = self._permutation(earlier)
            group = self.groups[draws[:, 0]]
            carried = [np.concatenate([draws[group == g], have]) for g, have in enumerate(carried)]
        return [have[len(have) - want :] for have, want in zip(carried, wanted, strict=True)]

    def _epoch_batches(
        self, epoch: int, carried: list[np.ndarray]
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Returns the micro-batches that an epoch completes, in order, and what it leaves."""
        draws = self._permutation(epoch)
        group = self.groups[draws[:, 0]]
        batches: list[np.ndarray] = []
        left = []
        for g, before in enumerate(carried):
            items = np.concatenate([before, draws[group == g]])
            full = len(items) // self.batch_size * self.batch_size
            batches.extend(items[:full].reshape(-1, self.batch_size, 2))
            left.append(items[full:])
        # Complete when the last draw is made; draw numbers are unique, so the order is too.
        batches.sort(key=lambda batch: batch[-1, 1])
        return batches, left
