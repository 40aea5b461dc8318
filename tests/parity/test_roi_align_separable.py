"""The matrix form of RoIAlign against torchvision's kernel: values, gradients, odd RoIs."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import roi_align

from mask_rcnn_repro.modeling.roi_align_separable import is_profitable, roi_align_separable

coordinate = st.floats(-60, 220, allow_nan=False, width=32)
box = st.tuples(st.integers(0, 1), coordinate, coordinate, coordinate, coordinate)


@settings(max_examples=60, deadline=None)
@given(st.lists(box, max_size=6), st.booleans(), st.integers(1, 3), st.sampled_from([1, 7]))
def test_equals_torchvision_in_values_and_gradients(boxes, aligned, samples, side):
    rois = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 5)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 3, 10, 13, dtype=torch.float64, generator=generator)
    ours, theirs = features.clone().requires_grad_(), features.clone().requires_grad_()
    out = roi_align_separable(ours, rois, (side, side), 1 / 16, samples, aligned)
    expected = roi_align(theirs, rois, side, 1 / 16, samples, aligned)
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)
    weight = torch.randn(expected.shape, dtype=torch.float64, generator=generator)
    (out * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("aligned", [False, True])
def test_half_integer_edges_and_border(aligned):
    features = torch.arange(24.0).reshape(1, 1, 4, 6).double()
    rois = torch.tensor([[0, -8, -8, 8, 8], [0, 8, 8, 24, 24], [0, 80, 48, 104, 72]]).double()
    out = roi_align_separable(features, rois, (2, 2), 1 / 16, 2, aligned)
    torch.testing.assert_close(out, roi_align(features, rois, 2, 1 / 16, 2, aligned))


def test_hand_computed_value_in_the_middle_of_four_cells():
    features = torch.tensor([[[[0.0, 2.0], [4.0, 6.0]]]])
    rois = torch.tensor([[0.0, 0.0, 0.0, 1.0, 1.0]])  # one bin, one sample at (0.5, 0.5)
    out = roi_align_separable(features, rois, (1, 1), 1.0, 1, False)
    assert out.item() == pytest.approx(3.0)


def test_small_cpu_maps_only():
    rois = torch.zeros(4, 5)
    small = torch.zeros(1, 1, 32, 32)
    assert is_profitable(small, rois, (7, 7), 2)
    assert not is_profitable(torch.zeros(1, 1, 200, 300), rois, (7, 7), 2)
    assert not is_profitable(small, rois, (7, 7), 0)  # adaptive sampling differs by RoI
    assert not is_profitable(small.to("meta"), rois, (7, 7), 2)  # any device but the CPU
    wide = torch.zeros(1, 2048, 25, 42, device="cpu")
    assert not is_profitable(wide, torch.zeros(1000, 5), (7, 7), 2)  # 2.4 GB on the way


def test_whole_numbers_of_cells_put_samples_on_the_border_exactly():
    """There rounding decides between one and zero: sample j of 14 at start + (2 j + 1) w / 28."""
    rois, at = [], []
    for j in range(14):
        for size in range(1, 85):
            if (2 * j + 1) * size % 28 == 0:  # whole cells from the RoI's start
                start = -1 - (2 * j + 1) * size // 28
                rois.append([0.0, start, 0.0, start + size, 1.0])
                at.append(j)
    assert len(rois) > 40
    out = roi_align_separable(torch.ones(1, 1, 4, 90), torch.tensor(rois), (1, 14), 1.0, 1, False)
    on_border = out[torch.arange(len(rois)), 0, 0, torch.tensor(at)]
    assert torch.equal(on_border, torch.ones(len(rois)))
