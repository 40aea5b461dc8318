"""What mask losses are trained on: targets, images without objects, pictures of both."""

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage

from mask_rcnn_repro.modeling import (
    MultinomialMaskLoss,
    PerClassSigmoidMaskLoss,
    mask_targets,
)

from .mask_helpers import LOSSES, compute, constant, positives, without_masks


def test_target_is_the_part_of_the_mask_inside_the_roi():
    """A RoI over the right half of the box sees no object, one over the left half nothing else."""
    instances = positives([0, 0], side=8)
    instances.proposal_boxes = Boxes(torch.tensor([[4.0, 0.0, 8.0, 8.0], [0.0, 0.0, 4.0, 8.0]]))
    targets = mask_targets([instances], 4)
    assert targets.dtype == torch.bool
    assert not targets[0].any() and targets[1].all()
    logits = torch.stack([constant(-20.0, 20.0), constant(20.0, -20.0)])[:, 0]
    assert compute(MultinomialMaskLoss(), logits, [instances])[0].item() < 1e-8
    assert compute(PerClassSigmoidMaskLoss(), logits[:, :1], [instances])[0].item() < 1e-8


@pytest.mark.parametrize("loss", LOSSES)
def test_polygons_and_bit_masks_are_the_same_ground_truth(loss):
    """A rectangle on whole pixels; images may differ in what they bring."""
    boxes = Boxes(torch.tensor([[0.0, 0.0, 16.0, 16.0], [4.0, 4.0, 12.0, 12.0]]))
    polygon = np.array([4.0, 2.0, 12.0, 2.0, 12.0, 10.0, 4.0, 10.0])
    bits = torch.zeros(2, 16, 16, dtype=torch.bool)
    bits[:, 2:10, 4:12] = True

    def image(masks):
        instances = Instances((16, 16), proposal_boxes=boxes, gt_masks=masks)
        instances.gt_classes = torch.tensor([1, 0])
        return instances

    of_polygons = image(PolygonMasks([[polygon], [polygon]]))
    of_bits = image(BitMasks(bits))
    assert torch.equal(mask_targets([of_polygons], 8), mask_targets([of_bits], 8))
    assert mask_targets([of_bits], 8).sum((1, 2)).tolist() == [4 * 4, 8 * 6]
    logits = torch.randn(4, loss().num_outputs(2), 8, 8)
    expected = compute(loss(), logits, [of_bits, of_bits])
    assert compute(loss(), logits, [of_polygons, of_bits]) == expected


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize("has_masks", [True, False])
def test_without_rois_the_loss_is_zero_with_a_graph(loss, count, has_masks):
    logits = torch.zeros(0, loss().num_outputs(2), 4, 4, requires_grad=True)
    empty = [positives([]) if has_masks else without_masks() for _ in range(count)]
    value, scalars = compute(loss(), logits, empty)
    value.backward()
    assert value.item() == 0 and logits.grad.shape == logits.shape
    assert scalars == {}
    targets = mask_targets(empty, 4)
    assert targets.shape == (0, 4, 4) and targets.dtype == torch.bool


@pytest.mark.parametrize("loss", LOSSES)
def test_an_image_without_objects_changes_nothing(loss):
    logits = torch.randn(2, loss().num_outputs(3), 4, 4)
    expected = compute(loss(), logits, [positives([2]), positives([0])])
    images = [without_masks(), positives([2]), positives([]), positives([0]), without_masks()]
    assert compute(loss(), logits, images) == expected


@pytest.mark.parametrize("loss", LOSSES)
def test_predictions_are_drawn_beside_targets(loss):
    logits = torch.randn(2, loss().num_outputs(3), 4, 4)
    with EventStorage(0) as storage:
        loss().loss(logits, [positives([2, 1])], vis_period=1)
        pictures = [picture for _, picture, _ in storage._vis_data]
    assert len(pictures) == 2
    shown = loss().probabilities(logits, torch.tensor([2, 1]))
    for picture, probabilities in zip(pictures, shown, strict=True):
        assert picture.shape == (3, 4, 8)
        # The storage stretches values to bytes; what is right of the middle is the target.
        assert (picture[:, :, 4:6] > picture[:, :, 6:]).all()
        order = torch.as_tensor(picture[0, :, :4]).flatten()[probabilities.flatten().argsort()]
        assert (order.diff() >= 0).all()
