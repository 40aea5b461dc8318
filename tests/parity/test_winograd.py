"""Winograd's convolution against PyTorch's."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from mask_rcnn_repro.modeling.accel import onednn
from mask_rcnn_repro.modeling.accel.winograd import WinogradWeights
from mask_rcnn_repro.modeling.inference.fused_layers import FusedConv2d
from mask_rcnn_repro.utils import compiled

pytestmark = pytest.mark.skipif(not compiled.HAVE_NUMBA, reason="needs Numba")


def make(images: int, channels: int, outputs: int, height: int, width: int, bias: bool = True):
    generator = torch.Generator().manual_seed(height * 1000 + width)
    x = torch.randn(images, channels, height, width, generator=generator)
    weight = torch.randn(outputs, channels, 3, 3, generator=generator) / (3 * channels**0.5)
    return x, weight, torch.randn(outputs, generator=generator) if bias else None


def exact(x, weight, bias, relu=False):
    double = None if bias is None else bias.double()
    y = functional.conv2d(x.double(), weight.double(), double, padding=1)
    return y.relu() if relu else y


@pytest.mark.parametrize(
    ("images", "height", "width"),
    [(1, 1, 1), (1, 4, 4), (2, 5, 3), (1, 7, 9), (3, 14, 14), (1, 2, 70), (1, 65, 67)],
)
@pytest.mark.parametrize("relu", [False, True])
def test_equals_the_usual_sum(images, height, width, relu):
    x, weight, bias = make(images, 5, 7, height, width)
    found = WinogradWeights(weight, bias).convolve(x, relu)
    assert found.shape == (images, 7, height, width)
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found.double(), exact(x, weight, bias, relu), rtol=0, atol=5e-5)


def test_rounding_is_that_of_float32():
    x, weight, _ = make(1, 256, 64, 40, 44)
    expected = exact(x, weight, None)
    found = WinogradWeights(weight, None).convolve(x, False)
    error = (found - expected).square().mean().sqrt() / expected.std()
    assert error < 1e-5


def test_memory_formats_views_and_no_images():
    x, weight, bias = make(2, 6, 4, 9, 10)
    weights = WinogradWeights(weight, bias)
    expected = exact(x, weight, bias, False)
    wide = torch.zeros(2, 6, 9, 20)
    wide[..., ::2] = x
    for same in (x, x.contiguous(memory_format=torch.channels_last), wide[..., ::2]):
        found = weights.convolve(same, False).double()
        torch.testing.assert_close(found, expected, rtol=0, atol=5e-5)
    assert weights.convolve(x[:0], True).shape == (0, 4, 9, 10)


def test_bfloat16_features_are_summed_in_float32():
    x, weight, bias = make(1, 64, 32, 21, 30)
    x = x.bfloat16()
    found = WinogradWeights(weight, bias).convolve(x, False)
    assert found.dtype == torch.bfloat16
    expected = exact(x, weight, bias, False)
    # half a unit in the last of 8 places, and what float32 adds at a tie
    torch.testing.assert_close(found.double(), expected, rtol=2**-8 * 1.01, atol=1e-4)


def test_not_a_number_stays_one():
    x, weight, bias = make(1, 4, 4, 12, 12)
    x[0, 1, 6, 6] = float("nan")
    for features in (x, x.bfloat16()):
        found = WinogradWeights(weight, bias).convolve(features, True)
        assert found[0, :, 5:8, 5:8].isnan().all()
        assert found[0, :, :4, :4].isfinite().all()


def test_threads_change_nothing():
    x, weight, bias = make(2, 48, 40, 50, 70)
    weights, threads = WinogradWeights(weight, bias), torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(weights.convolve(x, True))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_without_onednns_kernels(monkeypatch):
    monkeypatch.setattr(onednn, "fused_kernels", lambda dtype: False)
    x, weight, bias = make(1, 6, 5, 30, 31)
    with torch.autocast("cpu", torch.bfloat16):
        found = WinogradWeights(weight, bias).convolve(x, True)
    torch.testing.assert_close(found.double(), exact(x, weight, bias, True), rtol=0, atol=5e-5)


@pytest.mark.parametrize(
    ("arguments", "fits"),
    [
        ({}, True),
        ({"stride": 2}, False),
        ({"padding": 0}, False),
        ({"dilation": 2, "padding": 2}, False),
        ({"groups": 2}, False),
        ({"kernel_size": 1, "padding": 0}, False),
        ({"in_channels": 64}, False),
    ],
)
def test_which_layers(arguments, fits):
    defaults = {"in_channels": 128, "out_channels": 128, "kernel_size": 3, "padding": 1}
    conv = nn.Conv2d(**{**defaults, **arguments})
    geometry = (conv.stride, conv.padding, conv.dilation, conv.groups)
    assert WinogradWeights.fits(conv.weight, *geometry) is fits
    assert not WinogradWeights.fits(conv.weight.double(), *geometry)


def test_layers_take_it_for_large_maps_alone(monkeypatch):
    conv = nn.Conv2d(128, 128, 3, padding=1)
    large, small = torch.randn(1, 128, 60, 60), torch.randn(1, 128, 6, 6)
    seen = []
    usual = WinogradWeights.convolve

    def convolve(self, x, relu):
        seen.append(tuple(x.shape[2:]))
        return usual(self, x, relu)

    monkeypatch.setattr(WinogradWeights, "convolve", convolve)
    with torch.no_grad():
        fused = FusedConv2d.of(conv, torch.float32, relu=True)
        for x in (large, small):
            torch.testing.assert_close(fused(x), conv(x).relu(), rtol=1e-4, atol=1e-4)
            add = torch.randn(1, 128, *x.shape[2:])
            expected = (conv(x) + add).relu()
            torch.testing.assert_close(fused(x, add.clone()), expected, rtol=1e-4, atol=1e-4)
    assert seen == [(60, 60)]
    monkeypatch.setattr(compiled, "HAVE_NUMBA", False, raising=False)
    assert onednn.fused_kernels(torch.float32)
    assert FusedConv2d.of(conv, torch.float32)._winograd is None
