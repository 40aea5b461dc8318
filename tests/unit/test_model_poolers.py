"""RoI poolers: values by hand, Detectron2's outputs, levels, and coordinates in mixed precision."""

import pytest
import torch
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes

from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.modeling import RoIPooler

FPN_SCALES = [1 / 4, 1 / 8, 1 / 16, 1 / 32]


def ramp(height: int, width: int, dtype=torch.float32) -> torch.Tensor:
    """A map whose value at cell x is x: bilinear samples of it are the sampling coordinates."""
    return torch.arange(width, dtype=dtype).expand(1, 1, height, width)


@pytest.mark.parametrize(("pooler_type", "shift"), [("ROIAlign", 0.0), ("ROIAlignV2", -0.5)])
def test_roi_align_by_hand(pooler_type, shift):
    # The RoI spans cells 2 to 9 at stride 16; a bin of 1 cell has samples at 1/4 and 3/4 of it.
    pooler = RoIPooler(7, [1 / 16], pooler_type=pooler_type)
    out = pooler([ramp(12, 12)], [Boxes(torch.tensor([[32.0, 32.0, 144.0, 144.0]]))])
    expected = torch.arange(7) + 2.5 + shift
    torch.testing.assert_close(out[0, 0], expected.expand(7, 7))


def test_default_is_unshifted_with_four_samples_a_bin():
    pooler = RoIPooler(7, [1 / 16])
    layer = pooler.level_poolers[0]
    assert (layer.aligned, layer.sampling_ratio, layer.output_size) == (False, 2, (7, 7))


@pytest.mark.parametrize("pooler_type", ["ROIAlign", "ROIAlignV2", "ROIPool"])
@pytest.mark.parametrize("scales", [[1 / 16], FPN_SCALES])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_equal_to_detectron2_values_and_gradients(pooler_type, scales, sampling_ratio):
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(2, 30, 2, 2, generator=generator) * 300
    boxes = [Boxes(torch.cat([c.amin(1), c.amax(1)], dim=1)) for c in corners]
    results = []
    for cls in (RoIPooler, ROIPooler):
        generator.manual_seed(1)
        maps = [
            torch.randn(2, 3, int(320 * s), int(320 * s), generator=generator).requires_grad_()
            for s in scales
        ]
        out = cls(7, scales, sampling_ratio, pooler_type=pooler_type)(maps, boxes)
        out.square().sum().backward()
        results.append([out, *[m.grad for m in maps]])
    tolerance = 1e-5  # sums in another order
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("canonical", [224, 56])
def test_level_of_a_box(canonical):
    """FPN paper, equation 1: sides 1/4, 1/2, 1, 2 of the canonical go to p2, p3, p4, p5."""
    pooler = RoIPooler(2, FPN_SCALES, canonical_box_size=canonical)
    maps = [torch.full((1, 1, 1024 >> k, 1024 >> k), float(k)) for k in (2, 3, 4, 5)]
    sides = torch.tensor([0.01, 0.25, 0.5, 0.99, 1.0, 2.0, 4.0]) * canonical
    boxes = torch.stack([torch.zeros(7), torch.zeros(7), sides, sides], dim=1)
    out = pooler(maps, [Boxes(boxes)])
    assert out[:, 0, 0, 0].round().tolist() == [2, 2, 3, 3, 4, 5, 5]


@pytest.mark.parametrize("scales", [[1 / 32], FPN_SCALES])
def test_no_rois(scales):
    maps = [torch.randn(2, 3, 8, 8, requires_grad=True) for _ in scales]
    out = RoIPooler(7, scales)(maps, [Boxes(torch.zeros(0, 4))] * 2)
    assert out.shape == (0, 3, 7, 7)
    out.sum().backward()
    assert all((m.grad == 0).all() for m in maps)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("height", [12, 40])
def test_bf16_features_do_not_round_coordinates(autocast, height):
    # At 1000 px bfloat16 numbers are 4 px apart: the box would move by up to 2 px.
    box = [Boxes(torch.tensor([[1001.7, 3.3, 1064.9, 40.1]]))]
    x = (torch.arange(300.0) % 4).expand(1, 1, height, 300)  # exact in bfloat16
    exact = RoIPooler(7, [1 / 4])([x], box)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = RoIPooler(7, [1 / 4])([x.bfloat16()], box)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), exact, rtol=2**-8, atol=2**-8)  # the output's rounding


def test_float64_stays_float64():
    features = torch.rand(1, 2, 9, 9, dtype=torch.float64, requires_grad=True)
    pooler = RoIPooler(2, [1 / 4])
    box = [Boxes(torch.tensor([[3.1, 2.2, 30.5, 28.9]]))]
    assert pooler([features], box).dtype == torch.float64
    assert torch.autograd.gradcheck(lambda f: pooler([f], box), features)


def test_unknown_layer_names_the_known():
    with pytest.raises(
        ConfigError, match=r"pooler_type='RoiAlign' is unknown; allowed: .*ROIAlign, .*ROIWarpMax"
    ):
        RoIPooler(7, [1 / 16], pooler_type="RoiAlign")
