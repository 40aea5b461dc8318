"""Keypoints decoded together are those of Detectron2, which decodes person by person."""

from __future__ import annotations

import pytest
import torch
from detectron2.structures.keypoints import heatmaps_to_keypoints

from mask_rcnn_repro.modeling.inference import keypoint_decoding
from mask_rcnn_repro.modeling.inference.keypoint_decoding import _parts, decode_heatmaps


def persons(count, side=14, keypoints=3):
    """Heatmaps, and boxes from below one pixel to several times the heatmap."""
    generator = torch.Generator().manual_seed(count)
    maps = 3 * torch.randn(count, keypoints, side, side, generator=generator)
    corners = 100 * torch.rand(count, 2, generator=generator)
    sizes = torch.tensor([90.0, 160.0]) * torch.rand(count, 2, generator=generator)
    sizes[:1] = 0.3
    return maps, torch.cat([corners, corners + sizes], dim=1)


@pytest.mark.parametrize("values", [1, 1 << 15, 1 << 30])
@pytest.mark.parametrize("count", [0, 1, 40])
def test_as_detectron2(count, values, monkeypatch):
    monkeypatch.setattr(keypoint_decoding, "_CPU_VALUES", values)
    maps, boxes = persons(count)
    found = decode_heatmaps(maps, boxes)
    expected = heatmaps_to_keypoints(maps, boxes)
    assert found.shape == (count, 3, 3)
    torch.testing.assert_close(found[..., :2], expected[..., :2], rtol=1e-6, atol=1e-4)
    torch.testing.assert_close(found[..., 2], expected[..., 3], rtol=1e-4, atol=1e-6)


def test_autocast_changes_nothing():
    maps, boxes = persons(5)
    expected = decode_heatmaps(maps, boxes)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(decode_heatmaps(maps, boxes), expected)


def test_a_peak_by_hand():
    """The middle of cell (row 1, column 2) of 4 x 4, in a box of 8 x 12 from (10, 20)."""
    maps = torch.zeros(1, 1, 4, 4)
    maps[0, 0, 1, 2] = 5
    box = torch.tensor([[10.0, 20.0, 18.0, 32.0]])
    (found,) = decode_heatmaps(maps, box)[0]
    # cells are 2 x 3 pixels: of columns 4 and 5, equally near the middle, one; row 4 is it
    assert found[0] in (14.5, 15.5) and found[1] == 24.5


def test_boxes_of_similar_sizes_are_together():
    sizes = [(10, 10), (100, 100), (11, 10), (98, 100), (1, 1)]
    parts = list(_parts(sizes, 1 << 20))
    assert parts == [([4], 1, 1), ([0, 2], 11, 10), ([3, 1], 100, 100)]
    assert [part for part, *_ in _parts(sizes, 1)] == [[4], [0], [2], [3], [1]]
    assert list(_parts([], 1)) == []
