"""Training and test loaders: mapped images in batches, with or without worker processes.

The training loader's batches depend on the seed, the data and the micro-batch size alone. They are
bit for bit the same with any number of workers, and from any iteration on the same as in a run
that was not interrupted.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetFromList
from detectron2.data.build import trivial_batch_collator
from detectron2.data.samplers import InferenceSampler
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset

from mask_rcnn_repro.data.coco.file import release_parsed_files
from mask_rcnn_repro.data.loading.sampling import Draw, MicroBatchSampler
from mask_rcnn_repro.data.loading.worker_deaths import die_with_parent, surviving_deaths
from mask_rcnn_repro.errors import ConfigError, DataError, UserError
from mask_rcnn_repro.utils.threads import usable_cpus

logger = logging.getLogger(__name__)

DatasetDicts = Sequence[Mapping[str, Any]]
Mapper = Callable[[dict[str, Any]], dict[str, Any]]


def build_train_loader(
    dataset: DatasetDicts,
    mapper: Mapper,
    total_batch_size: int,
    num_workers: int = 4,
    aspect_ratio_grouping: bool = True,
    seed: int = 0,
    start_iteration: int = 0,
    accumulate: int = 1,
    rank: int | None = None,
    world_size: int | None = None,
) -> DataLoader:
    """Builds an endless loader of micro-batches.

    An iteration takes ``total_batch_size`` images: ``accumulate`` micro-batches on each of
    ``world_size`` processes.

    Args:
        dataset: Dicts from :func:`get_training_dicts`.
        mapper: Maps such a dict to the input of the model.
        total_batch_size: Images per optimizer step, over all processes and micro-batches.
        num_workers: Processes that load ahead (:func:`loader_workers`). 0 loads in this process.
        aspect_ratio_grouping: Put images wider than high and others into separate micro-batches,
            which need less padding.
        seed: Seed of the order of images and of their augmentations.
        start_iteration: Iteration whose batch comes first. Skipping takes no time.
        accumulate: Micro-batches per iteration and process.
        rank: Number of this process. None asks Detectron2.
        world_size: Number of processes. None asks Detectron2.

    Returns:
        A loader of lists of ``total_batch_size / (world_size * accumulate)`` mapped dicts.

    Raises:
        ConfigError: Sizes cannot be divided evenly or are out of range.
        DataError: The data set is empty or lacks what the mapper must produce.
    """
    rank = comm.get_rank() if rank is None else rank
    world_size = comm.get_world_size() if world_size is None else world_size
    for name, value, low in (
        ("total_batch_size", total_batch_size, 1),
        ("accumulate", accumulate, 1),
        ("num_workers", num_workers, 0),
        ("seed", seed, 0),
        ("start_iteration", start_iteration, 0),
    ):
        if value < low:
            raise ConfigError(f"dataloader.train: {name} must be at least {low}, got {value}.")
    parts = world_size * accumulate
    if total_batch_size % parts:
        raise ConfigError(
            f"total_batch_size={total_batch_size} cannot be divided evenly among {world_size} "
            f"processes with accumulate={accumulate}; use a multiple of {parts}."
        )
    if not len(dataset):
        raise DataError("The training set is empty: no image is left to train on.")
    _check_targets(dataset, mapper)
    if getattr(mapper, "use_instance_mask", False) and any(map(_is_unmasked, dataset)):
        dataset = [record for record in dataset if not _is_unmasked(record)]
    groups = np.zeros(len(dataset), dtype=np.int64)
    if aspect_ratio_grouping:
        groups[:] = [record["width"] <= record["height"] for record in dataset]
    size, start = total_batch_size // parts, start_iteration * parts
    sampler = MicroBatchSampler(groups, size, seed, start, rank, world_size)
    draws = _SeededDraws(dataset, mapper, seed)
    return UserErrorLoader(draws, batch_sampler=sampler, **_options(num_workers))


def build_test_loader(
    dataset: DatasetDicts, mapper: Mapper, num_workers: int = 4, batch_size: int = 1
) -> DataLoader:
    """Builds a loader that gives each image once, in order, shared among processes.

    Each process gets a contiguous part of the data, as Detectron2's ``InferenceSampler`` cuts it.

    Args:
        dataset: Dicts from :func:`get_test_dicts`.
        mapper: Maps such a dict to the input of the model.
        num_workers: See :func:`build_train_loader`.
        batch_size: Images per batch. The last batch may be smaller.

    Returns:
        A loader of lists of mapped dicts, with a length.

    Raises:
        ConfigError: Sizes are out of range.
        DataError: The data set is empty.
    """
    if batch_size < 1 or num_workers < 0:
        raise ConfigError(
            "dataloader.test: batch_size must be at least 1 and num_workers at least 0, got "
            f"{batch_size} and {num_workers}."
        )
    if not len(dataset):
        raise DataError("The test set is empty.")
    mapped, sampler = _Mapped(dataset, mapper), InferenceSampler(len(dataset))
    return UserErrorLoader(mapped, batch_size, sampler=sampler, **_options(num_workers))


def build_local_loader(dataset: DatasetDicts, mapper: Mapper, num_workers: int = 0) -> DataLoader:
    """Builds a loader that gives each image once, in order and one by one, in this process alone.

    Arguments are those of :func:`build_test_loader`. Nothing is shared among processes.
    """
    return UserErrorLoader(_Mapped(dataset, mapper), batch_size=1, **_options(num_workers))


class UserErrorLoader(DataLoader):
    """A loader that raises a worker's :class:`UserError` as it is, without the worker's traceback.

    Workers return the error as a value; torch would prepend a traceback to the message.

    Before workers are forked, OpenCV is set to one thread in this process. A worker that inherits
    its thread pool, whose threads do not exist there, hangs as soon as it changes or uses it.

    Parsed annotation files are released, because each worker would hold a copy, and nothing needs
    them any more.

    Workers that die are replaced, see :func:`surviving_deaths`.
    """

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        release_parsed_files()
        if self.num_workers > 0:
            _one_opencv_thread()
        for batch in surviving_deaths(self._from_batch):
            for item in batch:
                if isinstance(item, UserError):
                    raise item
            yield batch

    def _from_batch(self, number: int) -> Iterator[list[dict[str, Any]]]:
        if number == 0:
            return super().__iter__()
        names = ("num_workers", "collate_fn", "worker_init_fn", "generator", "pin_memory")
        options: dict[str, Any] = {name: getattr(self, name) for name in names}
        rest = _Rest(self.batch_sampler, number)
        return iter(DataLoader(self.dataset, batch_sampler=rest, **options))


class _Rest:
    """The batches of a sampler from some number on."""

    def __init__(self, batches: Any, start: int) -> None:
        self._batches, self._start = batches, start

    def __iter__(self) -> Iterator[Any]:
        if isinstance(self._batches, MicroBatchSampler):
            return iter(self._batches.after(self._start))
        return itertools.islice(self._batches, self._start, None)

    def __len__(self) -> int:
        return max(len(self._batches) - self._start, 0)


class _Mapped(Dataset):
    """Dicts, serialized so that workers share their memory, and a mapper."""

    def __init__(self, dataset: DatasetDicts, mapper: Mapper) -> None:
        self._records = DatasetFromList(list(dataset), copy=False)
        self._mapper = mapper

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, Any] | UserError:
        return self._load(index, index)

    def _load(self, index: int, *key: int) -> dict[str, Any] | UserError:
        """Maps one image with random numbers that depend on the key alone."""
        try:
            with seeded(*key):
                return self._mapper(self._records[index])
        except UserError as error:
            return type(error)(*error.args)  # without traceback, which cannot be pickled


class _SeededDraws(_Mapped):
    """Items are draws: the image's index and the number that seeds its augmentation."""

    def __init__(self, dataset: DatasetDicts, mapper: Mapper, seed: int) -> None:
        super().__init__(dataset, mapper)
        self._seed = seed

    def __getitem__(self, draw: Draw) -> dict[str, Any] | UserError:  # type: ignore[override]
        index, number = draw
        return self._load(index, self._seed, number)


@contextlib.contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Seeds Python's, numpy's and torch's CPU generator from a key, and restores them after.

    Without workers the mapper runs in the training process, whose own random numbers must not
    depend on how images are loaded. CUDA's generators are left alone.
    """
    words = np.random.SeedSequence(key).generate_state(3)
    python, numpy = random.getstate(), np.random.get_state()
    torch_state = torch.default_generator.get_state()
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    torch.default_generator.manual_seed(int(words[2]))
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.default_generator.set_state(torch_state)


def loader_workers(asked: int) -> int:
    """Limits a loader's worker processes to this process's share of the usable CPUs.

    More processes take memory and do not load faster. What is loaded does not depend on the number.

    Args:
        asked: As configured; 0 loads in the calling process.

    Returns:
        ``asked``, or a lower number (at least 1), which is logged.
    """
    try:
        processes = int(comm.get_local_size())
    except AssertionError:  # a process group that Detectron2's `launch` did not make
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", comm.get_world_size()))
    share = max(1, usable_cpus() // processes)
    if asked <= share:
        return asked
    logger.info(
        "Loading with %d worker processes instead of num_workers=%d: this process can use %d CPUs.",
        *(share, asked, share),
    )
    return share


def _options(num_workers: int) -> dict[str, Any]:
    # The generator is asked for the workers' base seed; torch's own would be advanced by it.
    return {
        "num_workers": loader_workers(num_workers),
        "collate_fn": trivial_batch_collator,
        "worker_init_fn": _one_thread,
        "generator": torch.Generator(),
        # Copies to a GPU need not be waited for then. A model on the CPU uses no GPU: pinning
        # would take memory on one, which may be full.
        "pin_memory": torch.cuda.is_initialized(),
    }


def _one_thread(worker_id: int) -> None:
    """Keeps a worker to one thread: workers are the parallelism of loading."""
    die_with_parent()
    torch.set_num_threads(1)
    _one_opencv_thread()


def _one_opencv_thread() -> None:
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(1)


def _is_unmasked(record: Mapping[str, Any]) -> bool:
    """Whether an image has objects, but none with a mask. They would be trained as background."""
    objects = [a for a in record.get("annotations", ()) if not a.get("iscrowd", 0)]
    return bool(objects) and not any(a.get("segmentation") for a in objects)


def _check_targets(dataset: DatasetDicts, mapper: Mapper) -> None:
    """Refuses data without a single mask or keypoint, or with another number of keypoints.

    Generated annotations that are mixed with labeled ones are checked separately. Without targets,
    their images would be trained on as empty.
    """
    labeled = [record for record in dataset if not record.get("generated")]
    generated = [record for record in dataset if record.get("generated")]
    fields = {"use_instance_mask": "segmentation", "use_keypoint": "keypoints"}
    for what, records in (("the training set", labeled), ("the generated annotations", generated)):
        for attribute, field in fields.items():
            if not records or not getattr(mapper, attribute, False):
                continue
            annotations = (a for record in records for a in record.get("annotations", ()))
            if all(annotation.get(field) is None for annotation in annotations):
                raise DataError(
                    f"dataloader.train.mapper.{attribute} is true, but no annotation of {what} "
                    f"has {field!r}. Choose a data set that has it, or train without."
                )
    if getattr(mapper, "use_keypoint", False) and hasattr(mapper, "check_keypoints"):
        for record in dataset:
            mapper.check_keypoints(record)
