"""Polygons in arrays behave and rasterise as Detectron2's, which are the reference."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from detectron2.structures import Instances, PolygonMasks
from hypothesis import given, settings
from hypothesis import strategies as st

from mask_rcnn_repro.data.loading.polygons import PolygonArrays


def some_polygons(seed: int, count: int) -> list[list[np.ndarray]]:
    rng = np.random.RandomState(seed)
    return [
        [rng.rand(2 * rng.randint(3, 30)) * rng.choice([3, 50, 600]) for _ in range(rng.randint(3))]
        for _ in range(count)
    ]


def same(ours: PolygonMasks, theirs: PolygonMasks) -> None:
    assert len(ours) == len(theirs)
    for a, b in zip(ours.polygons, theirs.polygons, strict=True):
        assert len(a) == len(b)
        for p, q in zip(a, b, strict=True):
            np.testing.assert_array_equal(p, q)


@settings(max_examples=120, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 6),
    st.integers(0, 20),
    st.sampled_from([7, 14, 28]),
    st.sampled_from(["usual", "whole", "flat", "tiny"]),
)
def test_targets_equal_detectron2s(seed, count, rois, side, kind):
    rng = np.random.RandomState(seed)
    polygons = some_polygons(seed, count)
    chosen = torch.from_numpy(rng.randint(0, count, rois))
    boxes = torch.from_numpy(rng.rand(rois, 4) * 600).float()
    boxes[:, 2:] = boxes[:, :2] + torch.from_numpy(rng.rand(rois, 2) * 500).float()
    if kind == "whole":
        boxes = boxes.round()
    elif kind == "flat":
        boxes[:, 2] = boxes[:, 0]
    elif kind == "tiny":
        boxes[:, 2:] = boxes[:, :2] + 0.05
    ours, theirs = PolygonArrays(polygons)[chosen], PolygonMasks(polygons)[chosen]
    got = ours.crop_and_resize(boxes, side)
    assert got.dtype == torch.bool
    assert torch.equal(got, theirs.crop_and_resize(boxes, side).reshape(-1, side, side))


def test_a_square_by_hand():
    masks = PolygonArrays([[np.array([2.0, 2, 6, 2, 6, 6, 2, 6])]])
    got = masks.crop_and_resize(torch.tensor([[0.0, 0, 8, 8]]), 8)
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[2:6, 2:6] = True
    assert torch.equal(got[0], expected)


@pytest.mark.parametrize(
    "item",
    [
        1,
        slice(1, 4),
        [0, 0, 3],
        torch.tensor([4, 2]),
        torch.tensor([True, False, True, False, False]),
        torch.zeros(0, dtype=torch.int64),
    ],
)
def test_choosing(item):
    polygons = some_polygons(3, 5)
    ours, theirs = PolygonArrays(polygons)[item], PolygonMasks(polygons)[item]
    same(ours, theirs)
    assert torch.equal(ours.nonempty(), theirs.nonempty())
    both = torch.tensor([0] * min(1, len(ours)), dtype=torch.int64)
    same(ours[both], theirs[both])  # a choice of a choice


def test_what_detectron2_does_with_masks():
    polygons = [p for p in some_polygons(5, 12) if p]
    ours, theirs = PolygonArrays(polygons), PolygonMasks(polygons)
    assert torch.equal(ours.area(), theirs.area())
    assert torch.equal(ours.get_bounding_boxes().tensor, theirs.get_bounding_boxes().tensor)
    same(PolygonMasks.cat([ours, ours[:2]]), PolygonMasks.cat([theirs, theirs[:2]]))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a[0], b[0])
    same(ours.to("cpu"), theirs)
    same(pickle.loads(pickle.dumps(ours)), theirs)
    same(copy.deepcopy(ours), theirs)
    one = Instances((9, 9), gt_masks=ours[:2])
    same(Instances.cat([one, one]).gt_masks, theirs[[0, 1, 0, 1]])


def test_impossible_polygons_and_types():
    with pytest.raises(ValueError, match="Cannot create a polygon"):
        PolygonArrays([[np.zeros(4)]])
    with pytest.raises(ValueError, match="dtype"):
        PolygonArrays(some_polygons(0, 2))[torch.zeros(2)]
