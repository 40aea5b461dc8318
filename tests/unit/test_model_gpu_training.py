"""Parts of a training step on a GPU, which have the values of Detectron2's on any device."""

import copy

import pytest
import torch
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.matcher import Matcher
from torch import nn

from mask_rcnn_repro.modeling.gpu_training import speed_up_training


def anchors_of(generator, *sizes):
    """Anchors of two levels, for images of some sizes one after the other."""
    for height, width in sizes:
        maps = [torch.zeros(1, 1, height, width), torch.zeros(1, 1, height // 2, width // 2)]
        yield from (boxes.tensor for boxes in generator(maps))


def test_anchors_do_not_depend_on_earlier_images():
    theirs = DefaultAnchorGenerator(
        sizes=[[30.1], [60.3]], aspect_ratios=[0.5, 1.0, 2.0], strides=[4, 8]
    )
    ours = copy.deepcopy(theirs)
    speed_up_training(ours)
    assert type(ours) is not DefaultAnchorGenerator
    for change in (nn.Module.float, nn.Module.half, nn.Module.float, copy.deepcopy):
        theirs, ours = change(theirs), change(ours)
        sizes = (20, 30), (31, 10), (4, 4), (31, 30)
        pairs = zip(anchors_of(theirs, *sizes), anchors_of(ours, *sizes), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("low_quality", [True, False])
@pytest.mark.parametrize(
    ("thresholds", "labels"), [([0.3, 0.7], [0, -1, 1]), ([0.5], [0, 1]), ([0.3, 0.3], [0, -1, 1])]
)
@pytest.mark.parametrize("objects", [0, 1, 6])
def test_matcher_at_thresholds_ties_and_objects_without_overlap(
    objects, thresholds, labels, low_quality
):
    quality = torch.rand(objects, 300, generator=torch.Generator().manual_seed(0))
    quality[quality < 0.2] = 0
    quality[: objects // 2, :3] = torch.tensor(thresholds * 3)[:3]
    quality[-1:] = 0
    model = nn.Module()
    model.anchor_matcher = Matcher(thresholds, labels, low_quality)
    matches, found = model.anchor_matcher(quality)
    speed_up_training(model)
    assert type(model.anchor_matcher) is not Matcher
    for _ in range(2):
        again = model.anchor_matcher(quality)
        assert torch.equal(again[0], matches) and torch.equal(again[1], found)
        assert again[1].dtype == found.dtype


def test_parts_of_a_user_stay():
    class Own(DefaultAnchorGenerator):
        pass

    own = Own(sizes=[[32]], aspect_ratios=[1.0], strides=[4])
    speed_up_training(nn.Sequential(own))
    assert type(own) is Own
