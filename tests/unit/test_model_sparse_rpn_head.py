"""The RPN head's backward pass through the places that the loss looks at: equal gradients."""

from __future__ import annotations

import pytest
import torch
from detectron2.layers import Conv2d
from detectron2.modeling.proposal_generator.rpn import StandardRPNHead
from torch import nn

from mask_rcnn_repro.modeling import PaperRPNHead
from mask_rcnn_repro.modeling.accel.sparse_rpn_head import rpn_head


def gradients(head, features, weights):
    """Of a weighted sum of the outputs, with respect to features and parameters."""
    leaves = [x.detach().requires_grad_() for x in features]
    outputs = [torch.cat(pair, dim=1) for pair in zip(*head(leaves), strict=True)]
    loss = sum((out * weight).sum() for out, weight in zip(outputs, weights, strict=True))
    return [*outputs, *torch.autograd.grad(loss, [*leaves, *head.parameters()])]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("places", ["none", "corners", "few", "all"])
def test_equal_to_detectron2(places, memory_format):
    generator = torch.Generator().manual_seed(3)
    ours = PaperRPNHead(in_channels=6, num_anchors=2)
    theirs = StandardRPNHead(in_channels=6, num_anchors=2)
    theirs.load_state_dict(ours.state_dict())
    features = [
        torch.randn(2, 6, *size, generator=generator).contiguous(memory_format=memory_format)
        for size in ((9, 13), (5, 7))
    ]
    weights = [torch.randn(2, 10, *x.shape[2:], generator=generator) for x in features]
    for weight in weights:
        mask = torch.zeros(weight.shape[2:])
        if places == "corners":  # the kernel reaches beyond the map, not into the other image
            mask[0, 0] = mask[0, -1] = mask[-1, 0] = mask[-1, -1] = 1
        elif places == "few":
            mask[2, 3] = mask[2, 4] = mask[3, 3] = 1
        elif places == "all":  # takes the other way
            mask += 1
        weight *= mask
    found = gradients(ours, features, weights)
    for ours_one, theirs_one in zip(found, gradients(theirs, features, weights), strict=True):
        torch.testing.assert_close(ours_one, theirs_one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("places", [3, 40])
def test_gradients_in_float64(places):
    generator = torch.Generator().manual_seed(4)
    shapes = [(1, 2, 5, 8), (3, 2, 3, 3), (3,), (4, 3, 1, 1), (4,)]
    tensors = [
        torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in shapes
    ]
    weight = torch.randn(4, 40, generator=generator, dtype=torch.float64)
    weight[:, torch.randperm(40, generator=generator)[places:]] = 0
    weight = weight.view(1, 4, 5, 8)
    assert torch.autograd.gradcheck(lambda *args: rpn_head(*args) * weight, tensors)


def test_frozen_features_have_no_gradient_and_mixed_precision_sums_in_float32():
    head = PaperRPNHead(in_channels=4, num_anchors=1)
    x = torch.randn(1, 4, 12, 12)
    with torch.autocast("cpu", torch.bfloat16):
        (logits,), (deltas,) = head([x])
    assert logits.dtype == deltas.dtype == torch.float32
    (logits[0, 0, 4, 5] + deltas[0, 2, 4, 5]).backward()
    exact = StandardRPNHead(in_channels=4, num_anchors=1)
    exact.load_state_dict(head.state_dict())
    (logits,), (deltas,) = exact([x])
    (logits[0, 0, 4, 5] + deltas[0, 2, 4, 5]).backward()
    for ours, theirs in zip(head.parameters(), exact.parameters(), strict=True):
        assert ours.grad.dtype == torch.float32
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=0.05, atol=0.02)


def test_no_images():
    head = PaperRPNHead(in_channels=4, num_anchors=1)
    (logits,), (deltas,) = head([torch.zeros(0, 4, 6, 6)])
    (logits.sum() + deltas.sum()).backward()
    assert head.conv.weight.grad.abs().sum() == 0


class OtherActivation(PaperRPNHead):
    """A user's head with another hidden layer."""

    def _get_rpn_conv(self, in_channels, out_channels):
        return Conv2d(in_channels, out_channels, kernel_size=3, padding=1, activation=nn.GELU())


def test_a_subclass_keeps_its_layers_in_training():
    torch.manual_seed(0)
    head = OtherActivation(in_channels=6, num_anchors=2)
    for parameter in head.parameters():
        nn.init.normal_(parameter)
    features = [torch.randn(1, 6, 5, 4)]
    with torch.no_grad():
        expected = head(features)
    torch.testing.assert_close(head(features), expected)


@pytest.mark.parametrize("part", ["conv", "objectness_logits", "anchor_deltas"])
def test_hooks_are_called(part):
    head, seen = PaperRPNHead(in_channels=6, num_anchors=2), []
    head.get_submodule(part).register_forward_hook(lambda *_: seen.append(part))
    head([torch.randn(1, 6, 5, 4)])
    assert seen == [part]
