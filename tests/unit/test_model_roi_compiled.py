"""The compiled RoI loops: odd input, what they apply to, the plain path, no Numba at all."""

import os
import subprocess
import sys
from itertools import product

import pytest
import torch
from detectron2.structures import Boxes
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from mask_rcnn_repro.modeling import POOLER_REGISTRY, RoIPooler
from mask_rcnn_repro.modeling.accel.compiled_roi_layers import Form, applies, pool_rois
from mask_rcnn_repro.modeling.roi_layers import ROIAlign, ROIWarpAve

from .roi_compiled_helpers import FORMS, needs_numba, torchvision_pool, values_and_gradient

# Odd input


@needs_numba
@pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rois_that_are_not_finite_or_huge_read_nothing_outside(form, dtype):
    nan, inf, huge = float("nan"), float("inf"), 3e38
    odd = [nan, inf, -inf, huge, -huge, 1e20]
    boxes = [[0, *b] for b in product(odd, [3.0, nan], [nan, 50.0, huge], [inf, 40.0])]
    boxes += [[0, -huge, -huge, huge, huge], [0, 5.0, -1e9, 30.0, 1e9]]
    fine = [0, 5.0, 6.0, 70.0, 60.0]
    features = torch.randn(1, 3, 6, 8, dtype=dtype, generator=torch.Generator().manual_seed(0))
    rois = torch.tensor([*boxes, fine], dtype=dtype)
    out, gradient = values_and_gradient(lambda f: pool_rois([f], rois, [1 / 16], form), features)
    assert out.isfinite().all() and gradient.isfinite().all()
    unknown = ~rois.isfinite().all(dim=1)
    assert not out[unknown].any()
    alone = pool_rois([features], rois[-1:], [1 / 16], form)
    assert torch.equal(out[-1:], alone) and alone.any()


@needs_numba
def test_adaptive_sampling_of_a_huge_box_equals_its_samples_in_the_map():
    """A box of 2,000 bins' cells over a small map: 1,000 samples a bin, few of which count."""
    features = torch.randn(1, 2, 9, 11, dtype=torch.float64)
    rois = torch.tensor([[0, -3000.0, -900.0, 4000.0, 1100.0]], dtype=torch.float64)
    for form in (Form("mean", (7, 7), 0), Form("mean", (2, 3), 0, half_pixel=True)):
        out, gradient = values_and_gradient(
            lambda f, a=form: pool_rois([f], rois, [1], a), features
        )
        expected = values_and_gradient(lambda f, a=form: torchvision_pool(f, rois, 1, a), features)
        torch.testing.assert_close(out, expected[0], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(gradient, expected[1], rtol=1e-9, atol=1e-12)


@needs_numba
@pytest.mark.parametrize("image", [-1.0, 2.0, float("nan")])
def test_an_image_that_is_not_there(image):
    rois = torch.tensor([[0, 1.0, 1.0, 9.0, 9.0], [image, 1.0, 1.0, 9.0, 9.0]])
    with pytest.raises(IndexError, match=r"image index .*hold 2"):
        pool_rois([torch.zeros(2, 1, 4, 4)], rois, [1.0], FORMS["mean"])


@needs_numba
@pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
@pytest.mark.parametrize("shape", [(1, 3, 0, 5), (1, 3, 4, 0), (1, 0, 4, 4), (1, 3, 0, 0)])
def test_maps_without_cells_or_channels(form, shape):
    rois = torch.tensor([[0, 0.0, 0.0, 3.0, 3.0], [0, -4.0, -4.0, 9.0, 9.0]])
    out, gradient = values_and_gradient(
        lambda f: pool_rois([f], rois, [1.0], form), torch.zeros(shape)
    )
    assert out.shape == (2, shape[1], *form.output_size) and not out.any()
    assert gradient.shape == shape


@needs_numba
def test_no_rois_and_levels_without_rois_have_zero_gradients():
    maps = [torch.randn(2, 3, 8, 8, requires_grad=True) for _ in range(2)]
    out = pool_rois(maps, torch.zeros(0, 5), [1, 1], FORMS["max"], torch.zeros(0, dtype=torch.long))
    out.sum().backward()
    assert out.shape == (0, 3, 7, 7) and not any(m.grad.any() for m in maps)
    rois = torch.tensor([[1, 0.0, 0.0, 5.0, 5.0]])
    pool_rois(maps, rois, [1, 1], FORMS["max"], torch.tensor([1])).sum().backward()
    assert not maps[0].grad.any() and maps[1].grad[1].any() and not maps[1].grad[0].any()


@needs_numba
@pytest.mark.parametrize("kind", ["mean", "max", "cells"])
def test_features_that_are_nan(kind):
    features = torch.randn(1, 2, 8, 8, dtype=torch.float64)
    features[0, 0, 3, 3], features[0, 1, 5, 2] = float("nan"), float("-inf")
    rois = torch.tensor([[0, 8.3, 9.7, 110.1, 117.3]], dtype=torch.float64)
    form = FORMS[kind]
    out, gradient = values_and_gradient(lambda f: pool_rois([f], rois, [1 / 16], form), features)
    expected = values_and_gradient(lambda f: torchvision_pool(f, rois, 1 / 16, form), features)
    torch.testing.assert_close(out, expected[0], equal_nan=True)
    torch.testing.assert_close(gradient, expected[1])


@needs_numba
def test_gradients_only_where_they_are_needed_and_only_once():
    maps = [torch.randn(1, 2, 8, 8, requires_grad=wanted) for wanted in (True, False)]
    rois = torch.tensor([[0, 1.0, 1.0, 6.0, 6.0], [0, 0.0, 2.0, 7.0, 5.0]])
    pool = lambda: pool_rois(maps, rois, [1, 1], FORMS["mean"], torch.tensor([0, 1]))  # noqa: E731
    (gradient,) = torch.autograd.grad(pool().square().sum(), maps[:1], create_graph=True)
    assert gradient.any()
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
    with torch.no_grad():
        expected = pool()
    assert expected.grad_fn is None
    with torch.inference_mode():
        assert torch.equal(pool(), expected)


# Through the layers and the pooler


@pytest.mark.parametrize("channels", [8, 512], ids=["small", "large"])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pooled_features_may_be_changed_in_place(channels, channels_last, dtype):
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(1, channels, 16, 16, generator=generator).to(dtype)
    features = features.contiguous(memory_format=torch.channels_last)
    corner = 30 * torch.rand(100, 2, generator=generator)
    rois = torch.cat([torch.zeros(100, 1), corner, corner + 20], dim=1)

    def pool(relu):
        def run(x):
            return relu(pool_rois([x], rois, [0.25], FORMS["mean"], None, channels_last))

        return values_and_gradient(run, features)

    for mine, expected in zip(pool(torch.relu_), pool(torch.relu), strict=True):
        assert torch.equal(mine, expected) and mine.stride() == expected.stride()


def test_a_layer_that_changes_the_computation_is_not_bypassed():
    class Doubled(ROIAlign):
        def pool(self, features, rois):
            return 2 * super().pool(features, rois)

    class Finer(ROIWarpAve):
        def __init__(self, output_size, spatial_scale, sampling_ratio):
            super().__init__(output_size, spatial_scale, 2 * sampling_ratio)

    features = torch.randn(1, 3, 40, 40)
    boxes = [Boxes(torch.tensor([[3.0, 5.0, 31.0, 28.0], [8.0, 2.0, 39.0, 30.0]]))]
    rois = torch.cat([torch.zeros(2, 1), boxes[0].tensor], dim=1)
    pooler = RoIPooler(7, [1.0])
    once = pooler([features], boxes)
    pooler.level_poolers[0] = Doubled((7, 7), 1.0, 2)
    torch.testing.assert_close(pooler([features], boxes), 2 * once, rtol=1e-5, atol=1e-5)
    finer = Finer((7, 7), 1.0, 1)
    assert finer.form() == Form("mean", (7, 7), 2, rounded=True)
    warp = ROIWarpAve((7, 7), 1.0, 2)
    torch.testing.assert_close(finer(features, rois), warp(features, rois))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_traced_compiled_and_fake_tensors_take_torchvision():
    pooler = RoIPooler(3, [1 / 4, 1 / 8])
    maps = [torch.randn(1, 2, 16, 16), torch.randn(1, 2, 8, 8)]
    box = torch.tensor([[3.0, 5.0, 31.0, 28.0], [8.0, 2.0, 30.0, 30.0]])
    expected = pooler(maps, [Boxes(box)])

    class Pool(torch.nn.Module):
        def forward(self, fine, coarse, box):
            return pooler([fine, coarse], [Boxes(box)])

    traced = torch.jit.trace(Pool(), (*maps, box), check_trace=False)
    assert "torchvision::roi_align" in str(traced.inlined_graph)
    torch.testing.assert_close(traced(*maps, box), expected, rtol=1e-5, atol=1e-5)

    layer = POOLER_REGISTRY.get("ROIAlign")((3, 3), 1 / 4, 2)
    rois = torch.cat([torch.zeros(2, 1), box], dim=1)
    alone = layer(maps[0], rois)
    graph = make_fx(layer)(maps[0], rois)
    assert "torchvision.roi_align" in graph.code
    compiled_layer = torch.compile(layer, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled_layer(maps[0], rois), alone, rtol=1e-5, atol=1e-5)
    exported = torch.export.export(layer, (maps[0], rois))
    assert "torchvision.roi_align" in exported.graph_module.code
    with FakeTensorMode() as mode:
        fake = layer(mode.from_tensor(maps[0]), mode.from_tensor(rois))
    assert fake.shape == (2, 2, 3, 3)


@needs_numba
def test_what_it_applies_to():
    rois, form = torch.zeros(4, 5), FORMS["mean"]
    features = torch.zeros(1, 8, 20, 20).contiguous(memory_format=torch.channels_last)
    assert applies([features], rois, form)
    assert applies([features.bfloat16()], rois, form)
    assert applies([features], rois, form._replace(kind="max", samples=15))
    assert not applies([features], rois, form._replace(kind="max", samples=16))
    assert not applies([features.half()], rois, form)
    assert not applies([features.to("meta")], rois, form)
    assert not applies([features], torch.zeros(4, 4), form)
    assert not applies([features, features.double()], rois, form)
    # bringing a large map into another memory format for a few RoIs does not pay
    ordinary, cells = torch.zeros(1, 8, 70, 70), FORMS["cells"]._replace(output_size=(7, 7))
    assert not applies([ordinary], rois, form)
    assert applies([ordinary], torch.zeros(40, 5), form)
    leaf = torch.zeros(1, 8, 70, 70, requires_grad=True)  # saves more where a gradient follows
    assert applies([leaf], rois, form) and not applies([leaf], rois, cells)


PROGRAM = """
import sys, torch
from detectron2.structures import Boxes
from mask_rcnn_repro.modeling import RoIPooler
assert "numba" not in sys.modules
for name in ("ROIAlign", "ROIAlignMax", "ROIPool", "ROIWarpAve", "ROIWarpMax"):
    maps = [torch.arange(2.0 * 4 * (64 >> k) ** 2).sin().view(2, 4, 64 >> k, 64 >> k)
            .requires_grad_() for k in range(4)]
    boxes = [Boxes(torch.tensor([[3.0, 5, 200, 190], [9, 9, 30.0, 40]])) for _ in range(2)]
    out = RoIPooler(7, [1 / 4, 1 / 8, 1 / 16, 1 / 32], pooler_type=name)(
        [m.contiguous(memory_format=torch.channels_last) for m in maps], boxes)
    out.square().sum().backward()
    print(out.double().sum().item(), *[m.grad.double().abs().sum().item() for m in maps])
print("numba" in sys.modules)
"""


@pytest.mark.slow
@needs_numba
def test_with_and_without_numba_in_processes_of_their_own():
    """The same numbers; and Numba is not imported before a RoI layer runs, nor at all without."""
    runs = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", PROGRAM],
            env={**os.environ, "MASK_RCNN_REPRO_NUMBA": numba},
            stdout=subprocess.PIPE,
            text=True,
        )
        for numba in ("0", "1")
    ]
    found = []
    for run, imported in zip(runs, ("False", "True"), strict=True):
        *lines, last = run.communicate()[0].splitlines()
        assert run.returncode == 0 and last == imported
        found.append(torch.tensor([[float(v) for v in line.split()] for line in lines]))
    assert found[0].shape == (5, 5)
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)
