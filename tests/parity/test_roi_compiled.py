"""The compiled RoI loops against torchvision's operators: values, gradients, formats, threads."""

import pytest
import torch
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes
from hypothesis import given, settings
from hypothesis import strategies as st

from mask_rcnn_repro.modeling import RoIPooler
from mask_rcnn_repro.modeling.accel.compiled_roi_layers import pool_rois

from ..unit.roi_compiled_helpers import (
    FORMS,
    needs_numba,
    random_rois,
    torchvision_pool,
    values_and_gradient,
)

FPN = [1 / 4, 1 / 8, 1 / 16, 1 / 32]

coordinate = st.one_of(
    st.floats(-80, 300, allow_nan=False, width=32),
    st.integers(-10, 40).map(lambda k: 8.0 * k),  # whole and half cells: borders and ties
)
box = st.tuples(st.integers(0, 1), coordinate, coordinate, coordinate, coordinate)


@needs_numba
@pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
@settings(max_examples=60, deadline=None)
@given(
    boxes=st.lists(box, max_size=5),
    size=st.tuples(st.integers(1, 14), st.integers(1, 14)),
    channels=st.sampled_from([1, 3, 9]),
    scale=st.sampled_from([1 / 16, 1 / 4, 1 / 3]),
    channels_last=st.booleans(),
    dtype=st.sampled_from([torch.float64, torch.float32]),
)
def test_equals_torchvision(form, boxes, size, channels, scale, channels_last, dtype):
    if dtype == torch.float32 and form.kind == "max":
        dtype = torch.float64  # equal samples, but for rounding, may exchange their gradients
    rois = torch.tensor(boxes, dtype=dtype).reshape(-1, 5)
    if form.half_pixel and form.samples == 0:  # torchvision fails for x2 < x1
        rois[:, 1:] = torch.cat([rois[:, 1:3].min(rois[:, 3:]), rois[:, 1:3].max(rois[:, 3:])], 1)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, channels, *size, generator=generator, dtype=dtype)
    expected, expected_gradient = values_and_gradient(
        lambda f: torchvision_pool(f, rois, scale, form), features
    )
    if channels_last:
        features = features.contiguous(memory_format=torch.channels_last)
    out, gradient = values_and_gradient(lambda f: pool_rois([f], rois, [scale], form), features)
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(out, expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(gradient, expected_gradient, rtol=tolerance, atol=tolerance)


@needs_numba
@pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
def test_large_map_in_float32(form):
    """Coordinates near 300 cells have few bits left for a position within a cell."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1, 8, 100, 300, generator=generator)
    rois = random_rois(300, 1, 1200, 400, generator)
    out = pool_rois([features], rois, [1 / 4], form)
    torch.testing.assert_close(
        out, torchvision_pool(features, rois, 1 / 4, form), rtol=1e-5, atol=1e-5
    )


@needs_numba
@pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
@pytest.mark.parametrize("channels_last", [False, True])
def test_gradients_equal_finite_differences(form, channels_last):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 2, 5, 6, dtype=torch.float64, generator=generator)
    if channels_last:
        features = features.contiguous(memory_format=torch.channels_last)
    rois = torch.tensor([[1, 3.0, 5.0, 61.0, 43.0], [0, -9.0, 8.0, 24.0, 90.0]])
    assert torch.autograd.gradcheck(
        lambda f: pool_rois([f], rois, [1 / 16], form), features.requires_grad_(), fast_mode=True
    )


@needs_numba
@pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
@pytest.mark.parametrize("channels_last", [False, True])
def test_bfloat16_is_float32_rounded_once(form, channels_last):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 9, 20, 30, generator=generator).bfloat16()
    features[0, 0, 3, 4] = float("inf")
    if channels_last:
        features = features.contiguous(memory_format=torch.channels_last)
    rois = random_rois(40, 2, 480, 320, generator)
    exact = pool_rois([features.float()], rois, [1 / 16], form)
    out = pool_rois([features], rois, [1 / 16], form)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out, exact.bfloat16(), rtol=0, atol=0, equal_nan=True)
    features[0, 0, 3, 4] = 1.0
    out, gradient = values_and_gradient(lambda f: pool_rois([f], rois, [1 / 16], form), features)
    wide = features.float().requires_grad_()
    weight = torch.randn(
        out.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64
    ).bfloat16()
    pool_rois([wide], rois, [1 / 16], form).backward(weight.float())
    assert gradient.dtype == torch.bfloat16 and torch.equal(gradient, wide.grad.bfloat16())


@needs_numba
@pytest.mark.parametrize("channels_last", [False, True])
def test_memory_format_of_output_and_gradient_is_that_of_the_map(channels_last):
    features = torch.randn(2, 4, 6, 7)
    if channels_last:
        features = features.contiguous(memory_format=torch.channels_last)
    rois = torch.tensor([[0, 5.0, 6.0, 70.0, 80.0], [1, 0.0, 0.0, 30.0, 99.0]])
    layer = lambda f: pool_rois([f], rois, [1 / 16], FORMS["mean"])  # noqa: E731
    for tensor in values_and_gradient(layer, features):
        assert tensor.is_contiguous(memory_format=torch.channels_last) == channels_last
        assert tensor.is_contiguous() != channels_last


@needs_numba
@pytest.mark.parametrize("wanted", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("channels_last", [False, True])
def test_memory_format_of_a_poolers_output_can_be_chosen(wanted, channels_last):
    maps = [torch.randn(1, 4, 16 >> k, 16 >> k) for k in range(4)]
    if channels_last:
        maps = [m.contiguous(memory_format=torch.channels_last) for m in maps]
    boxes = [Boxes(torch.tensor([[5.0, 6.0, 50.0, 60.0], [1.0, 0.0, 30.0, 59.0]]))]
    pooler = RoIPooler(7, FPN)
    expected = pooler(maps, boxes)
    pooler.memory_format = wanted
    out = pooler(maps, boxes)
    assert out.is_contiguous(memory_format=wanted) and torch.equal(out, expected)


@needs_numba
@pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
def test_any_memory_layout_of_map_and_gradient(form):
    generator = torch.Generator().manual_seed(0)
    rois = random_rois(20, 2, 200, 160, generator)
    plain = torch.randn(2, 6, 10, 13, generator=generator)
    strided = torch.randn(2, 12, 20, 13, generator=generator)[:, ::2, ::2]
    strided.copy_(plain)
    expected = values_and_gradient(lambda f: pool_rois([f], rois, [1 / 16], form), plain)
    found = values_and_gradient(lambda f: pool_rois([f], rois, [1 / 16], form), strided)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)
    leaf = plain.clone().requires_grad_()
    pool_rois([leaf], rois, [1 / 16], form).sum().backward()  # a gradient of strides 0
    ones = torch.ones_like(expected[0]).contiguous(memory_format=torch.channels_last)
    (gradient,) = torch.autograd.grad(
        pool_rois([second := plain.clone().requires_grad_()], rois, [1 / 16], form), second, ones
    )
    assert torch.equal(leaf.grad, gradient)


@needs_numba
@pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
def test_the_same_numbers_with_any_number_of_threads(form):
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, 16, 160 >> k, 240 >> k, generator=generator) for k in range(2)]
    rois = random_rois(200, 2, 960, 640, generator)
    levels = torch.randint(2, (200,), generator=generator)
    results, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            leaves = [m.clone().requires_grad_() for m in maps]
            out = pool_rois(leaves, rois, [1 / 4, 1 / 8], form, levels)
            (out * out.detach().cos()).sum().backward()
            results.append([out.detach(), *[leaf.grad for leaf in leaves]])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@needs_numba
@pytest.mark.parametrize("layer", ["ROIAlign", "ROIAlignV2", "ROIPool"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_pyramid_equals_detectron2(layer, channels_last):
    generator = torch.Generator().manual_seed(0)
    rois = random_rois(80, 2, 480, 320, generator)
    boxes = [Boxes(rois[rois[:, 0] == image, 1:]) for image in range(2)]
    boxes[1].tensor[0] = float("nan")
    boxes[1].tensor[1] = float("inf")
    results = []
    for pooler in (RoIPooler(7, FPN, pooler_type=layer), ROIPooler(7, FPN, 2, layer)):
        generator.manual_seed(1)
        maps = [torch.randn(2, 5, int(320 * s), int(480 * s), generator=generator) for s in FPN]
        if channels_last:
            maps = [m.contiguous(memory_format=torch.channels_last) for m in maps]
        maps = [m.requires_grad_() for m in maps]
        out = pooler(maps, boxes)
        out.square().sum().backward()
        results.append([out, *[m.grad for m in maps]])
        if isinstance(pooler, RoIPooler):
            assert out.grad_fn.name() == "_PoolRoIsBackward"
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
