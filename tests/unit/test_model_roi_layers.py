"""RoI layers against loops written from their definitions, torchvision's rounding, precision."""

import contextlib
import itertools
from unittest.mock import patch

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torchvision.ops import roi_pool

from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.modeling import POOLER_REGISTRY, RoIPooler, roi_layers
from mask_rcnn_repro.modeling.accel import deterministic_roi_layers
from mask_rcnn_repro.modeling.accel.compiled_roi_layers import DTYPES, cells_of
from mask_rcnn_repro.utils import compiled

from .roi_layer_reference import (
    HEIGHT,
    LAYERS,
    SPECIAL,
    WIDTH,
    cells,
    pool_bins,
    reference,
    touches_border,
)

PATHS = ("compiled", "torchvision", "deterministic")


def make(layer, output_size=(2, 2), scale=1 / 16, n=2):
    return POOLER_REGISTRY.get(layer)(output_size, scale, n)


def taking(path):
    """Within it, layers are computed in one of the ways, whatever is faster."""
    if path == "compiled" and not compiled.HAVE_NUMBA:
        pytest.skip("needs Numba")

    def applies(maps, *_):
        return path == "compiled" and maps[0].dtype in DTYPES

    stack = contextlib.ExitStack()
    stack.enter_context(patch.object(roi_layers, "applies", applies))
    deterministic = path == "deterministic"  # as on a GPU with train.deterministic
    stack.enter_context(
        patch.object(deterministic_roi_layers, "_wanted", lambda features: deterministic)
    )
    return stack


def x_ramp(height, width, dtype=torch.float32):
    """A map whose value at column x is x."""
    return torch.arange(width, dtype=dtype).expand(1, 1, height, width)


def check(layer, rois, output_size, scale, n, path):
    """Values and gradients of a layer on a random map of two images equal the loops'."""
    rois = np.asarray(rois, dtype=np.float64).reshape(-1, 5)
    random = np.random.default_rng(0)
    features = random.normal(size=(2, 2, HEIGHT, WIDTH))
    weight = random.normal(size=(len(rois), 2, *output_size))
    expected, gradient = reference(layer, features, rois, output_size, scale, n, weight)
    x = torch.from_numpy(features).requires_grad_()
    with taking(path):
        out = make(layer, output_size, scale, n)(x, torch.from_numpy(rois))
    (out * torch.from_numpy(weight)).sum().backward()
    np.testing.assert_allclose(out.detach().numpy(), expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(x.grad.numpy(), gradient, rtol=1e-8, atol=1e-8)


def test_registry():
    assert {name for name, _ in POOLER_REGISTRY} >= set(LAYERS)


# The box's edges are 1.5 and 3.5 in feature cells. RoIPool takes the cells 2, 3, 4. RoIWarp samples
# between 2 and 4.
@pytest.mark.parametrize(
    ("layer", "bins", "expected"),
    [
        ("ROIPool", 3, [2, 3, 4]),
        ("ROIPool", 2, [3, 4]),  # bins of 1.5 cells, rounded outwards: 2..3 and 3..4
        ("ROIWarpAve", 2, [2.5, 3.5]),
        ("ROIWarpMax", 2, [2.75, 3.75]),
        ("ROIAlign", 2, [2, 3]),
        ("ROIAlignMax", 2, [2.25, 3.25]),
        ("ROIAlignV2", 2, [1.5, 2.5]),
        ("ROIAlignV2Max", 2, [1.75, 2.75]),
    ],
)
@pytest.mark.parametrize("path", PATHS)
def test_by_hand_on_a_ramp(layer, bins, expected, path):
    roi = torch.tensor([[0, 24.0, 24.0, 56.0, 56.0]])
    with taking(path):
        across = make(layer, (bins, bins))(x_ramp(8, 8), roi)[0, 0]
        down = make(layer, (bins, bins))(x_ramp(8, 8).mT, roi)[0, 0]
    torch.testing.assert_close(across, torch.tensor(expected).float().expand(bins, bins))
    torch.testing.assert_close(down, across.T)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("stride", [4, 16, 32])
@pytest.mark.parametrize(("output_size", "n"), [((2, 4), 2), ((3, 1), 2), ((7, 5), 1), ((1, 2), 3)])
def test_special_rois_equal_the_definition(layer, path, stride, output_size, n):
    rois = [(i % 2, *(v * stride for v in box)) for i, box in enumerate(SPECIAL.values())]
    safe = [
        r for r in rois if not touches_border(layer, [r], output_size, 1 / stride, n, HEIGHT, WIDTH)
    ]
    assert len(safe) >= len(rois) - 4
    check(layer, safe, output_size, 1 / stride, n, path)


place = st.one_of(
    st.integers(-6, 20).map(lambda k: k / 2),  # half-integer edges
    st.floats(-4, WIDTH + 4, width=32),
)
extent = st.one_of(
    st.sampled_from([0.0, 0.5, 1.0, 1e-3, -1.0, 14.0]),
    st.floats(-2, WIDTH + 4, width=32),
)
boxes = st.tuples(st.integers(0, 1), place, place, extent, extent)


@pytest.mark.parametrize("layer", LAYERS)
@settings(max_examples=120, deadline=None)
@given(
    st.lists(boxes, max_size=3),
    st.sampled_from([4, 16, 32]),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.integers(1, 3),
)
def test_any_rois_equal_the_definition(layer, boxes, stride, output_size, n):
    rois = [
        (i, x * stride, y * stride, (x + w) * stride, (y + h) * stride) for i, x, y, w, h in boxes
    ]
    assume(not touches_border(layer, rois, output_size, 1 / stride, n, HEIGHT, WIDTH))
    for path in PATHS:
        check(layer, rois, output_size, 1 / stride, n, path)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("path", PATHS)
def test_gradients_equal_finite_differences(layer, path):
    x = torch.randn(2, 1, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rois = torch.tensor([[1, 3.0, 5.0, 61.0, 43.0], [0, -9.0, 8.0, 24.0, 90.0]])
    with taking(path):
        assert torch.autograd.gradcheck(
            lambda f: make(layer)(f, rois), x.requires_grad_(), fast_mode=True
        )


# Rounding


def hard_to_round():
    """Values at and next to halves, on both sides of zero."""
    halves = np.concatenate([np.arange(-40, 41) + 0.5, [2.0**22 + 0.5, -(2.0**22) - 0.5]])
    values = []
    for dtype in (np.float32, np.float64):
        at = halves.astype(dtype)
        up, down = (np.nextafter(at, dtype(s * np.inf)) for s in (1, -1))
        values += [at, up, down]
    values += [np.random.default_rng(0).uniform(-50, 50, 500), [0.0, -0.0, 0.49999997]]
    return np.concatenate([np.asarray(v, dtype=np.float64) for v in values])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1.0, 1 / 16, 1 / 3, 0.1])
def test_cells_round_halves_away_from_zero(dtype, scale):
    low = (hard_to_round() / scale).astype(dtype)
    high = np.roll(low, 7)
    boxes = np.stack([low, high, high, low], axis=1)
    start, size = cells_of(torch.from_numpy(boxes), scale)
    expected = [
        (cells(x1, x2, scale, dtype), cells(y1, y2, scale, dtype)) for x1, y1, x2, y2 in boxes
    ]
    found = torch.stack([start, size], dim=2).tolist()
    assert found == [[list(along_x), list(along_y)] for along_x, along_y in expected]


def test_torch_round_would_not_do():
    """The two differ just there where half of the integers' halves lie, and at 0.49999997 + 0.5."""
    value = torch.tensor([0.5, 1.5, 2.5, -0.5, -2.5, 0.49999997])
    start, _ = cells_of(value[:, None].expand(-1, 4), 1.0)
    assert start[:, 0].tolist() == [1, 2, 3, -1, -3, 0]
    assert value.round().tolist() == [0, 2, 2, 0, -2, 0]
    assert (value + 0.5).floor()[-1] == 1


def boxes_around_halves(scale, dtype):
    """(R, 4) boxes, of at most 36 cells within a map of 40, next to where rounding jumps."""
    at = (np.arange(1, 36) + 0.5) / scale
    at = at.astype(dtype)
    low = np.concatenate([at, np.nextafter(at, dtype(0)), np.nextafter(at, dtype(np.inf))])
    high = np.roll(low, 11)  # also before `low`: these take one cell
    return torch.from_numpy(np.stack([low, low, high, high], axis=1))


def first_and_last_cell_of_roi_pool(boxes, scale):
    rois = torch.cat([torch.zeros_like(boxes[:, :1]), boxes], dim=1)
    ramp = x_ramp(40, 40, boxes.dtype).to(boxes.device)
    last, first = roi_pool(ramp, rois, 1, scale), -roi_pool(-ramp, rois, 1, scale)
    return torch.stack([first.flatten(), last.flatten()], dim=1)


def edges_of_roi_warp(boxes, scale):
    """Start and end along x, read out from its extreme samples at 1/4 and 3/4 of the extent."""
    rois = torch.cat([torch.zeros_like(boxes[:, :1]), boxes], dim=1)
    ramp = x_ramp(40, 40, boxes.dtype).to(boxes.device)
    layer = make("ROIWarpMax", (1, 1), scale, 2)
    high, low = layer(ramp, rois).flatten(), -layer(-ramp, rois).flatten()
    size = 2 * (high - low)
    return torch.stack([low - size / 4, low - size / 4 + size], dim=1)


def edges_from_cells(cells):
    """RoIWarp's edges from the first and last cell of RoIPool: rounded alike, at least 1 apart."""
    first, last = cells.unbind(1)
    return torch.stack([first, first + (last - first).clamp(min=1)], dim=1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1 / 4, 1 / 16, 1 / 32, 1 / 3, 0.1])
def test_roi_warp_rounds_as_roi_pool(dtype, scale):
    boxes = boxes_around_halves(scale, dtype)
    pooled = first_and_last_cell_of_roi_pool(boxes, scale)
    torch.testing.assert_close(
        edges_of_roi_warp(boxes, scale), edges_from_cells(pooled), rtol=0, atol=1e-4
    )
    assert (pooled[:, 0] % 2 == 0).any() and (pooled[:, 0] % 2 == 1).any()


@pytest.mark.parametrize(
    ("warp", "align"), [("ROIWarpAve", "ROIAlign"), ("ROIWarpMax", "ROIAlignMax")]
)
@pytest.mark.parametrize("path", PATHS)
def test_rounding_is_the_only_difference_to_roi_align(warp, align, path):
    """Boxes on whole cells are not changed by it; others become such boxes."""
    features = torch.randn(1, 3, 9, 12, generator=torch.Generator().manual_seed(0))
    exact = torch.tensor([[0, 16.0, 32.0, 112.0, 80.0], [0, -32.0, 0.0, 192.0, 144.0]])
    moved = exact + torch.tensor([0, 7.5, -7.9, -3.0, 6.0])
    with taking(path):
        expected = make(align, (7, 7))(features, exact)
        assert torch.equal(make(warp, (7, 7))(features, exact), expected)
        assert torch.equal(make(warp, (7, 7))(features, moved), expected)
        assert not torch.allclose(make(align, (7, 7))(features, moved), expected, atol=0.01)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1.0, 1 / 16, 1 / 3])
def test_roi_pool_takes_these_cells_left_of_the_map_too(dtype, scale):
    """A box and its cells, as integers, give the same output; cells beside them would not."""
    low = (np.array([-0.5, -1.5, -2.5, -3.5, -0.49999997, -1.7, 0.49999997]) / scale).astype(dtype)
    high = low + dtype(4 / scale)
    boxes = torch.from_numpy(np.stack([low, low, high, high], axis=1))
    start, size = cells_of(boxes, scale)
    features = torch.randn(1, 4, 9, 9, generator=torch.Generator().manual_seed(0)).to(boxes.dtype)
    index = boxes.new_zeros(len(boxes), 1)

    def pooled(start, size):
        return roi_pool(features, torch.cat([index, start, start + size - 1], 1), (5, 7), 1.0)

    out = make("ROIPool", (5, 7), scale)(features, torch.cat([index, boxes], dim=1))
    assert torch.equal(out, pooled(start, size))
    for other in (pooled(start - 1, size), pooled(start + 1, size), pooled(start, size + 1)):
        assert (other != out).flatten(1).any(dim=1).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bins", [7, 14])
def test_roi_pool_bin_edges(dtype, bins):
    """First and last cell of each bin for RoIs of 1 to 130 cells; some bins end one cell later."""
    scale, offset, width = 1 / 16, 3, 140
    sizes = range(1, 131)
    rois = [[0, 16.0 * offset, 0, 16.0 * (offset + w - 1), 0] for w in sizes]
    rois = torch.tensor(rois, dtype=torch.from_numpy(np.zeros(1, dtype)).dtype)
    ramp = x_ramp(1, width, rois.dtype)
    layer = make("ROIPool", (1, bins), scale)
    last, first = layer(ramp, rois)[:, 0, 0].tolist(), (-layer(-ramp, rois))[:, 0, 0].tolist()
    longer = 0
    for w, of_first, of_last in zip(sizes, first, last, strict=True):
        box = (16 * offset, 16 * (offset + w - 1))
        expected = pool_bins(*box, bins, width, scale, dtype)
        assert [of_first, of_last] == [[b[0] for b in expected], [b[-1] for b in expected]], w
        longer += expected[-1][-1] - (offset + w - 1)
    assert longer == {(np.float32, 7): 3, (np.float64, 7): 4}.get((dtype, bins), longer)


def test_roi_pool_clips_bins_and_leaves_empty_ones_zero():
    features = torch.full((1, 1, 4, 4), -1.0, requires_grad=True)
    # Cells 2 to 5 of a map of 4: bins 2 and 3 of 4 have none. The other RoI is wholly outside.
    rois = torch.tensor([[0, 2.0, 0.0, 5.0, 3.0], [0, 9.0, 9.0, 12.0, 12.0]])
    out = make("ROIPool", (1, 4), 1.0)(features, rois)
    assert out.tolist() == [[[[-1, -1, 0, 0]]], [[[0, 0, 0, 0]]]]
    out.sum().backward()
    assert features.grad[0, 0].nonzero().tolist() == [[0, 2], [0, 3]]  # the first of equal ones
    assert features.grad.sum() == 2


def test_roi_pool_ignores_sampling_ratio():
    features, rois = torch.randn(1, 2, 6, 6), torch.tensor([[0, 3.0, 7.0, 70.0, 60.0]])
    outs = [make("ROIPool", (3, 3), n=n)(features, rois) for n in (0, 1, 2)]
    assert torch.equal(outs[0], outs[1]) and torch.equal(outs[0], outs[2])


# Arguments, precision, empty input, pyramids


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("n", [0, -1])
def test_fixed_number_of_samples(layer, n):
    if layer in ("ROIPool", "ROIAlign", "ROIAlignV2"):
        assert make(layer, n=n)(torch.ones(1, 1, 4, 4), torch.zeros(1, 5)).shape == (1, 1, 2, 2)
    else:
        with pytest.raises(ConfigError, match=rf"{layer} got sampling_ratio={n}\..*at least 1"):
            make(layer, n=n)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_reduced_precision_rounds_the_output_only(layer, path, autocast, dtype):
    features = torch.randn(2, 3, 6, 300, generator=torch.Generator().manual_seed(0)).to(dtype)
    features.requires_grad_()
    # At 1000 px bfloat16 numbers are 4 px apart: one cell.
    rois = torch.tensor([[1, 1001.7, 3.3, 1064.9, 20.1], [0, 3.2, 1.1, 900.3, 18.0]])
    with taking(path):
        exact = make(layer, (3, 3), 1 / 4)(features.detach().float(), rois)
        with torch.autocast("cpu", dtype, enabled=autocast):
            out = make(layer, (3, 3), 1 / 4)(features, rois)
    assert out.dtype == dtype
    assert torch.equal(out, exact.to(dtype))
    out.float().sum().backward()
    assert features.grad.dtype == dtype and features.grad.abs().sum() > 0


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_no_rois(layer, path, dtype):
    features = torch.randn(2, 3, 6, 6).to(dtype).requires_grad_()
    with taking(path):
        out = make(layer, (3, 4))(features, torch.zeros(0, 5))
    assert out.shape == (0, 3, 3, 4) and out.dtype == dtype
    out.sum().backward()
    assert torch.equal(features.grad, torch.zeros_like(features))


@pytest.mark.parametrize("layer", LAYERS)
def test_on_a_pyramid_each_roi_is_read_at_its_level(layer):
    scales = [1 / 4, 1 / 8, 1 / 16, 1 / 32]
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, 3, int(320 * s), int(320 * s), generator=generator) for s in scales]
    x1, y1 = torch.tensor([[9.3, 20.0], [33.3, 12.1], [0.5, 60.2], [1.0, 8.0]]), 8.5
    sides = torch.tensor([30.0, 120.0, 250.0, 500.0])  # levels 2, 3, 4, 5 of canonical 224 at 4
    boxes = [
        Boxes(torch.stack([x, torch.full_like(x, y1), x + sides, y1 + sides], dim=1)) for x in x1.T
    ]
    out = RoIPooler(7, scales, pooler_type=layer)(maps, boxes)
    for image, of_image in enumerate(boxes):
        for level, (scale, box) in enumerate(zip(scales, of_image.tensor, strict=True)):
            roi = torch.cat([torch.tensor([float(image)]), box])[None]
            alone = make(layer, (7, 7), scale)(maps[level], roi)[0]
            torch.testing.assert_close(out[4 * image + level], alone, rtol=1e-5, atol=1e-5)


# CUDA


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
class TestOnCuda:
    @pytest.mark.parametrize("layer", LAYERS)
    def test_equal_to_cpu_in_values_and_gradients(self, layer):
        generator = torch.Generator().manual_seed(0)
        for stride, size in itertools.product([4, 16, 32], [(7, 7), (2, 4)]):
            rois = [(i % 2, *(v * stride for v in box)) for i, box in enumerate(SPECIAL.values())]
            rois = [
                r
                for r in rois
                if not touches_border(layer, [r], size, 1 / stride, 2, HEIGHT, WIDTH)
            ]
            features = torch.randn(2, 8, HEIGHT, WIDTH, generator=generator).double()
            weight = torch.randn(len(rois), 8, *size, generator=generator).double()
            results = []
            for device in ("cpu", "cuda"):
                x = features.to(device, copy=True).requires_grad_()
                boxes = torch.tensor(rois, dtype=torch.float64, device=device)
                out = make(layer, size, 1 / stride)(x, boxes)
                (out * weight.to(device)).sum().backward()
                single = make(layer, size, 1 / stride)(x.detach().float(), boxes.float())
                results.append((out.detach().cpu(), x.grad.cpu(), single.cpu()))
            (out, gradient, single), (out_cuda, gradient_cuda, single_cuda) = results
            torch.testing.assert_close(out_cuda, out, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(gradient_cuda, gradient, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(single_cuda, single, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("layer", LAYERS)
    def test_reduced_precision_rounds_the_output_only(self, layer):
        rois = torch.tensor([[1, 1001.7, 3.3, 1064.9, 20.1]], device="cuda")
        for dtype, autocast in itertools.product([torch.bfloat16, torch.float16], [False, True]):
            features = torch.randn(2, 3, 6, 300, device="cuda").to(dtype).requires_grad_()
            exact = make(layer, (3, 3), 1 / 4)(features.detach().float(), rois)
            with torch.autocast("cuda", dtype, enabled=autocast):
                out = make(layer, (3, 3), 1 / 4)(features, rois)
            assert out.dtype == dtype and torch.equal(out, exact.to(dtype))
            out.float().sum().backward()
            assert features.grad.dtype == dtype and features.grad.abs().sum() > 0

    @pytest.mark.parametrize("layer", LAYERS)
    def test_no_rois(self, layer):
        features = torch.randn(2, 3, 6, 6, device="cuda", requires_grad=True)
        out = make(layer, (3, 4))(features, torch.zeros(0, 5, device="cuda"))
        out.sum().backward()
        assert out.shape == (0, 3, 3, 4) and not features.grad.any()

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_roi_warp_rounds_as_roi_pool(self, dtype):
        for scale in (1 / 4, 1 / 16, 1 / 3):
            boxes = boxes_around_halves(scale, dtype)
            on_cpu = first_and_last_cell_of_roi_pool(boxes, scale)
            pooled = first_and_last_cell_of_roi_pool(boxes.to("cuda"), scale).cpu()
            warped = edges_of_roi_warp(boxes.to("cuda"), scale).cpu()
            assert torch.equal(pooled, on_cpu)
            torch.testing.assert_close(warped, edges_from_cells(on_cpu), rtol=0, atol=1e-4)
            hard = torch.from_numpy((hard_to_round() / scale).astype(dtype))[:, None].expand(-1, 4)
            for a, b in zip(cells_of(hard.to("cuda"), scale), cells_of(hard, scale), strict=True):
                assert torch.equal(a.cpu(), b)
