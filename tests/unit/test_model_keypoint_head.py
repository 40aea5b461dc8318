"""Keypoint head: Detectron2's outputs, sizes, empty input, float32 in mixed precision."""

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import KRCNNConvDeconvUpsampleHead
from detectron2.structures import Boxes, Instances, Keypoints
from detectron2.utils.events import EventStorage

from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.modeling import KeypointHead

SHAPE = ShapeSpec(channels=4, height=14, width=14)


def test_equal_to_detectron2():
    torch.manual_seed(0)
    ours = KeypointHead(SHAPE, num_conv=2, conv_dim=8)
    theirs = KRCNNConvDeconvUpsampleHead(SHAPE, num_keypoints=17, conv_dims=[8, 8])
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 4, 14, 14)
    assert torch.equal(ours.layers(x), theirs.layers(x))
    assert ours.layers(x).shape == (2, 17, 56, 56)
    assert ours.layers(x[:0]).shape == (0, 17, 56, 56)


def test_default_is_the_papers_head():
    with torch.device("meta"):
        head = KeypointHead(ShapeSpec(channels=256))
    assert head.conv_fcn8.weight.shape == (512, 512, 3, 3)
    assert not hasattr(head, "conv_fcn9")
    assert head.score_lowres.out_channels == 17


def person(visibility: float) -> Instances:
    instances = Instances((64, 64))
    instances.proposal_boxes = Boxes(torch.tensor([[8.0, 8.0, 56.0, 56.0]]))
    instances.gt_keypoints = Keypoints(torch.tensor([[[32.0, 32.0, visibility]] * 17]))
    return instances


@pytest.mark.parametrize("visibility", [0.0, 2.0])
def test_loss_of_visible_keypoints_only_in_mixed_precision(visibility):
    head = KeypointHead(SHAPE, num_conv=1, conv_dim=8)
    x = torch.randn(1, 4, 14, 14)
    with EventStorage(0), torch.autocast("cpu", torch.bfloat16):
        loss = head(x, [person(visibility)])["loss_keypoint"]
    assert loss.dtype == torch.float32
    if visibility:
        # A softmax over 56 x 56 places, close to uniform for a fresh head.
        assert 0.5 * 8.05 < loss.item() < 2 * 8.05
    else:
        assert loss.item() == 0.0
    loss.backward()
    assert head.score_lowres.weight.grad.isfinite().all()


def test_channels_last_is_the_same():
    torch.manual_seed(0)
    head = KeypointHead(SHAPE, num_conv=1, conv_dim=8)
    x = torch.randn(2, 4, 14, 14)
    people = [person(2.0), person(2.0)]
    with EventStorage(0):
        expected = head(x, people)["loss_keypoint"]
        head = head.to(memory_format=torch.channels_last)
        found = head(x.to(memory_format=torch.channels_last), people)["loss_keypoint"]
    torch.testing.assert_close(found, expected)


def test_no_detections_in_mixed_precision():
    head = KeypointHead(SHAPE, num_conv=1, conv_dim=8).eval()
    instances = Instances((64, 64))
    instances.pred_boxes = Boxes(torch.zeros(0, 4))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        head(torch.zeros(0, 4, 14, 14), [instances])
    assert instances.pred_keypoints.shape == (0, 17, 3)


def test_uneven_widths_by_name_are_refused():
    cfg = get_cfg()
    cfg.MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS = (8, 16)
    with pytest.raises(ConfigError, match=r"CONV_DIMS=\[8, 16\]"):
        KeypointHead(cfg, SHAPE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss_normalizer": "seen"}, "'visible' or a number above 0, got 'seen'"),
        ({"loss_normalizer": 0.0}, "got 0.0"),
        ({"num_keypoints": 0}, "num_keypoints must be at least 1, got 0"),
        ({"num_conv": 0}, "num_conv must be at least 1, got 0"),
        ({"conv_norm": "LN"}, "norm='LN' is unknown"),
    ],
)
def test_arguments_that_cannot_work(options, message):
    with pytest.raises(ConfigError, match=message):
        KeypointHead(SHAPE, **{"num_conv": 1, "conv_dim": 8} | options)


def test_whole_numbers_normalize_too():
    assert KeypointHead(SHAPE, num_conv=1, conv_dim=8, loss_normalizer=2).loss_normalizer == 2.0


def test_norms_of_the_convolutions():
    head = KeypointHead(SHAPE, num_conv=2, conv_dim=8, conv_norm="GN")
    assert isinstance(head.conv_fcn2.norm, torch.nn.GroupNorm)
    assert KeypointHead(SHAPE, num_conv=2, conv_dim=8).conv_fcn2.norm is None
    assert head.layers(torch.randn(2, 4, 14, 14)).shape == (2, 17, 56, 56)
