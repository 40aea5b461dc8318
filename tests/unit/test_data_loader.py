"""Loaders: the order of images, resuming, workers, processes, random state, errors."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from hypothesis import given, settings
from hypothesis import strategies as st

from mask_rcnn_repro.data import MaskRCNNMapper, build_test_loader, build_train_loader
from mask_rcnn_repro.data.coco.load import load_coco_json
from mask_rcnn_repro.data.loading.loader import seeded
from mask_rcnn_repro.data.loading.sampling import Draw, MicroBatchSampler
from mask_rcnn_repro.errors import ConfigError, DataError

from .data_helpers import content, write


@pytest.fixture(scope="module")
def dicts(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    data = content(7)
    for image in data["images"][:3]:
        image["height"], image["width"] = 40, 30
    return load_coco_json(*write(tmp_path_factory.mktemp("data"), data)).dicts


def train_mapper() -> MaskRCNNMapper:
    return MaskRCNNMapper(
        is_train=True,
        augmentations=[T.ResizeShortestEdge([16, 20, 24, 28], 64, "choice"), T.RandomFlip()],
        use_instance_mask=True,
    )


def take(loader: Any, count: int) -> list[list[dict[str, Any]]]:
    return list(itertools.islice(loader, count))


def assert_equal(left: list[list[dict[str, Any]]], right: list[list[dict[str, Any]]]) -> None:
    assert len(left) == len(right)
    for a, b in zip(itertools.chain(*left), itertools.chain(*right), strict=True):
        assert a["image_id"] == b["image_id"]
        assert torch.equal(a["image"], b["image"])
        assert torch.equal(a["instances"].gt_boxes.tensor, b["instances"].gt_boxes.tensor)


def draws(sampler: MicroBatchSampler, count: int) -> list[list[Draw]]:
    return list(itertools.islice(sampler, count))


def naive(groups: list[int], batch_size: int, seed: int, count: int) -> list[list[Draw]]:
    """Detectron2's aspect ratio grouping, one image at a time over shuffled epochs."""
    result: list[list[Draw]] = []
    buckets: tuple[list[Draw], list[Draw]] = ([], [])
    number = 0
    for epoch in itertools.count():
        for index in np.random.RandomState([seed, epoch]).permutation(len(groups)):
            bucket = buckets[groups[index]]
            bucket.append((int(index), number))
            number += 1
            if len(bucket) == batch_size:
                result.append(bucket[:])
                bucket.clear()
                if len(result) == count:
                    return result
    raise AssertionError


@settings(max_examples=150, deadline=None)
@given(
    groups=st.lists(st.integers(0, 1), min_size=1, max_size=12),
    batch_size=st.integers(1, 9),
    seed=st.integers(0, 5),
    start=st.integers(0, 60),
    world_size=st.integers(1, 4),
)
def test_sampler_is_the_naive_sequence_from_any_start(
    groups: list[int], batch_size: int, seed: int, start: int, world_size: int
) -> None:
    count = 3
    expected = naive(groups, batch_size, seed, start + count * world_size)[start:]
    for rank in range(world_size):
        sampler = MicroBatchSampler(groups, batch_size, seed, start, rank, world_size)
        assert draws(sampler, count) == expected[rank::world_size]


def test_every_image_once_an_epoch_and_groups_apart() -> None:
    groups = [0] * 40 + [1] * 24
    batches = draws(MicroBatchSampler(groups, 4, seed=3), 16)
    assert sorted(index for batch in batches for index, _ in batch) == list(range(64))
    assert all(len({groups[index] for index, _ in batch}) == 1 for batch in batches)
    other = draws(MicroBatchSampler(groups, 4, seed=4), 16)
    assert batches != other


def test_skipping_a_whole_schedule_is_quick() -> None:
    """160k iterations of 16 images on 118k images; walking there would take 320k steps."""
    groups = np.random.RandomState(0).rand(118_000) < 0.25
    sampler = MicroBatchSampler(groups.astype(int), 8, start=160_000 * 2)
    drawn: list[int] = []
    sampler._permutation = lambda epoch, f=sampler._permutation: drawn.append(epoch) or f(epoch)  # type: ignore[method-assign,assignment,misc]
    (batch,) = draws(sampler, 1)
    assert len(drawn) <= 3
    # About two and a half million draws precede it.
    assert abs(batch[0][1] - 160_000 * 16) < 50


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_same_batches_with_any_number_of_workers(
    dicts: list[dict[str, Any]], num_workers: int
) -> None:
    expected = take(build_train_loader(dicts, train_mapper(), 4, num_workers=0, seed=5), 6)
    loader = build_train_loader(dicts, train_mapper(), 4, num_workers=num_workers, seed=5)
    assert_equal(take(loader, 6), expected)
    # Augmentations differ from draw to draw and from seed to seed.
    assert len({item["image"].shape for batch in expected for item in batch}) > 2
    other = take(build_train_loader(dicts, train_mapper(), 4, num_workers=0, seed=6), 6)
    ids = [[item["image_id"] for batch in run for item in batch] for run in (expected, other)]
    assert ids[0] != ids[1]


def test_resuming_at_any_iteration(dicts: list[dict[str, Any]]) -> None:
    options = {"total_batch_size": 4, "num_workers": 0, "accumulate": 2}
    whole = take(build_train_loader(dicts, train_mapper(), **options), 12)
    for iteration in (1, 3, 5):
        loader = build_train_loader(dicts, train_mapper(), **options, start_iteration=iteration)
        assert_equal(take(loader, 12 - 2 * iteration), whole[2 * iteration :])


def test_processes_share_the_sequence_that_accumulation_walks(
    dicts: list[dict[str, Any]],
) -> None:
    """Two processes see in an iteration what one process sees with two micro-batches."""
    single = take(build_train_loader(dicts, train_mapper(), 4, num_workers=0, accumulate=2), 8)
    for rank in range(2):
        loader = build_train_loader(
            dicts, train_mapper(), 4, num_workers=0, rank=rank, world_size=2, start_iteration=1
        )
        assert_equal(take(loader, 3), single[2 + rank :: 2])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_loading_leaves_the_random_state_alone(
    dicts: list[dict[str, Any]], num_workers: int
) -> None:
    def state() -> tuple[Any, ...]:
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    before = state()
    take(build_train_loader(dicts, train_mapper(), 2, num_workers=num_workers), 3)
    take(build_test_loader(dicts, train_mapper(), num_workers=num_workers), 3)
    assert state() == before


def test_seeded_seeds_all_three_and_restores_after_errors() -> None:
    def numbers() -> list[float]:
        return [random.random(), np.random.rand(), float(torch.rand(()))]

    again: list[float] = []
    before = random.getstate()
    with seeded(1, 2):
        first = numbers()
    with pytest.raises(ZeroDivisionError), seeded(1, 2):
        raise ZeroDivisionError(again.extend(numbers()))
    assert again == first
    with seeded(1, 3):
        assert not set(numbers()) & set(first)
    assert random.getstate() == before


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("train", [True, False])
def test_broken_image_arrives_as_data_error(tmp_path: Path, num_workers: int, train: bool) -> None:
    records = load_coco_json(*write(tmp_path, content(2))).dicts
    file = Path(records[1]["file_name"])
    file.write_bytes(file.read_bytes()[:200])
    build = build_train_loader if train else build_test_loader
    sizes = {"total_batch_size": 2} if train else {"batch_size": 2}
    loader = build(records, train_mapper(), num_workers=num_workers, **sizes)  # type: ignore[operator]
    with pytest.raises(DataError, match=r"^Image 20, file .*cannot be decoded") as info:
        next(iter(loader))
    assert "Traceback" not in str(info.value)


def test_other_errors_in_workers_are_not_hidden(dicts: list[dict[str, Any]]) -> None:
    def broken(record: dict[str, Any]) -> dict[str, Any]:
        raise ZeroDivisionError("a bug")

    for num_workers in (0, 1):
        with pytest.raises(ZeroDivisionError, match="a bug"):
            next(iter(build_train_loader(dicts, broken, 2, num_workers=num_workers)))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_test_loader_gives_each_image_once_in_order(
    dicts: list[dict[str, Any]], num_workers: int
) -> None:
    mapper = MaskRCNNMapper(is_train=False, augmentations=[])
    loader = build_test_loader(dicts, mapper, num_workers=num_workers, batch_size=3)
    batches = list(loader)
    assert [len(batch) for batch in batches] == [3, 3, 1] and len(loader) == 3
    assert [item["image_id"] for batch in batches for item in batch] == [
        d["image_id"] for d in dicts
    ]


def test_workers_have_one_thread(dicts: list[dict[str, Any]]) -> None:
    def threads(record: dict[str, Any]) -> dict[str, Any]:
        return {"threads": torch.get_num_threads()}

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        (item,) = next(iter(build_test_loader(dicts, threads, num_workers=1)))
    finally:
        torch.set_num_threads(before)
    assert item == {"threads": 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"total_batch_size": 3, "accumulate": 2}, "multiple of 2"),
        ({"total_batch_size": 4, "world_size": 3, "rank": 0}, "multiple of 3"),
        ({"total_batch_size": 0}, "at least 1, got 0"),
        ({"total_batch_size": 2, "num_workers": -1}, "at least 0, got -1"),
        ({"total_batch_size": 2, "seed": -1}, "seed must be at least 0"),
    ],
)
def test_impossible_sizes(
    dicts: list[dict[str, Any]], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build_train_loader(dicts, train_mapper(), **options)


def test_impossible_data(dicts: list[dict[str, Any]]) -> None:
    with pytest.raises(DataError, match="training set is empty"):
        build_train_loader([], train_mapper(), 2)
    with pytest.raises(DataError, match="test set is empty"):
        build_test_loader([], train_mapper())
    with pytest.raises(ConfigError, match="batch_size"):
        build_test_loader(dicts, train_mapper(), batch_size=0)
    keypoints = MaskRCNNMapper(is_train=True, augmentations=[], use_keypoint=True)
    with pytest.raises(DataError, match=r"use_keypoint is true, .*no annotation"):
        build_train_loader(dicts, keypoints, 2)
    posed = [{**r, "annotations": [dict(a) for a in r["annotations"]]} for r in dicts]
    for record in posed:
        record["annotations"][0]["keypoints"] = [1.5, 1.5, 2] * 17
    build_train_loader(posed, keypoints, 2)
    posed[-1]["annotations"][0]["keypoints"] = [1.5, 1.5, 2] * 3
    with pytest.raises(DataError, match=r"Image 70, .* 3 keypoints, .* 17"):
        build_train_loader(posed, keypoints, 2)


def test_images_whose_objects_all_lack_masks_are_no_background(tmp_path: Path) -> None:
    """They are omitted where masks are trained: their objects would be negatives."""
    data = content(4)
    data["annotations"][0]["segmentation"] = [[3, 2, 13, 12]]
    dicts = load_coco_json(*write(tmp_path, data)).dicts
    assert len(dicts[0]["annotations"]) == 1
    first = dicts[0]["image_id"]

    def seen(mapper: MaskRCNNMapper) -> set[Any]:
        loader = build_train_loader(dicts, mapper, 1, 0)
        return {record["image_id"] for (record,) in take(loader, 8)}

    assert first not in seen(train_mapper()) and len(seen(train_mapper())) == 3
    assert first in seen(MaskRCNNMapper(is_train=True, augmentations=[]))
