"""The keypoint branch computes what Detectron2's does, and what section 5 says."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import (
    FastRCNNConvFCHead,
    FastRCNNOutputLayers,
    KRCNNConvDeconvUpsampleHead,
    StandardROIHeads,
)
from detectron2.structures import Boxes, Instances, Keypoints, pairwise_iou
from detectron2.structures.keypoints import heatmaps_to_keypoints
from detectron2.utils.events import EventStorage

from mask_rcnn_repro.modeling import (
    BoxPredictor,
    FCBoxHead,
    KeypointHead,
    PaperStandardROIHeads,
    RoIPooler,
)

# --- heads with equal weights ---------------------------------------------------------------

CHANNELS, NUM_KEYPOINTS = 4, 6
SIZES = [(96, 128), (112, 96), (80, 80), (64, 128)]
FEATURES = {"p2": 4, "p3": 8}  # name: stride


def common_parts(pooler: Callable[..., Any]) -> dict[str, Any]:
    """What both kinds of heads are given in the same words."""
    poolers = {
        branch: pooler(
            output_size=side,
            scales=[1 / stride for stride in FEATURES.values()],
            sampling_ratio=2,
            pooler_type="ROIAlign",
            canonical_box_size=48,
            canonical_level=3,
        )
        for branch, side in (("box_pooler", 7), ("keypoint_pooler", 14))
    }
    return {
        **poolers,
        "num_classes": 1,
        "batch_size_per_image": 24,
        "positive_fraction": 0.5,
        "proposal_matcher": Matcher([0.5], [0, 1]),
        "box_in_features": list(FEATURES),
        "keypoint_in_features": list(FEATURES),
    }


def predictor(kind: Callable[..., Any]) -> Any:
    transform = Box2BoxTransform((10.0, 10.0, 5.0, 5.0))
    return kind(
        ShapeSpec(channels=8),
        box2box_transform=transform,
        num_classes=1,
        test_score_thresh=0.0,
        test_nms_thresh=0.5,
    )


def both_heads(
    normalizer: float | str = "visible", loss_weight: float = 1.0
) -> tuple[PaperStandardROIHeads, StandardROIHeads]:
    torch.manual_seed(0)
    keypoints = {
        "num_keypoints": NUM_KEYPOINTS,
        "loss_normalizer": normalizer,
        "loss_weight": loss_weight,
    }
    shape = {side: ShapeSpec(channels=CHANNELS, height=side, width=side) for side in (7, 14)}
    theirs = StandardROIHeads(
        **common_parts(ROIPooler),
        box_head=FastRCNNConvFCHead(shape[7], conv_dims=[], fc_dims=[8]),
        box_predictor=predictor(FastRCNNOutputLayers),
        keypoint_head=KRCNNConvDeconvUpsampleHead(shape[14], conv_dims=[8], **keypoints),
    )
    ours = PaperStandardROIHeads(
        **common_parts(RoIPooler),
        box_head=FCBoxHead(shape[7], num_fc=1, fc_dim=8),
        box_predictor=predictor(BoxPredictor),
        keypoint_head=KeypointHead(shape[14], num_conv=1, conv_dim=8, **keypoints),
    )
    for parameter in theirs.parameters():  # scores and deltas that are not all alike
        torch.nn.init.normal_(parameter, std=0.3)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def features() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    height, width = (max(sides) for sides in zip(*SIZES, strict=True))
    return {
        name: torch.randn(
            len(SIZES), CHANNELS, height // stride, width // stride, generator=generator
        ).requires_grad_()
        for name, stride in FEATURES.items()
    }


def targets() -> list[Instances]:
    """Four images.

    0: a person all visible, some points beyond its box; one with every visibility; one without
    keypoints. 1: nothing. 2: a person without keypoints alone. 3: one whose only keypoint lies at
    the corner of its box.
    """
    generator = torch.Generator().manual_seed(2)
    boxes = [
        [[6.0, 8.0, 60.5, 80.25], [70.0, 10.0, 120.0, 90.0], [20.0, 50.0, 50.0, 70.0]],
        [],
        [[10.0, 10.0, 70.0, 60.0]],
        [[8.0, 4.0, 100.0, 60.0]],
    ]
    result = []
    for size, corners in zip(SIZES, boxes, strict=True):
        instances = Instances(size)
        instances.gt_boxes = Boxes(torch.tensor(corners).reshape(-1, 4))
        instances.gt_classes = torch.zeros(len(corners), dtype=torch.int64)
        if corners:  # the mapper leaves the field out where there is nothing
            box = instances.gt_boxes.tensor[:, None]
            spread = torch.rand(len(corners), NUM_KEYPOINTS, 2, generator=generator) * 1.4 - 0.2
            places = box[..., :2] + spread * (box[..., 2:] - box[..., :2])
            visibility = torch.zeros(len(corners), NUM_KEYPOINTS, 1)
            instances.gt_keypoints = Keypoints(torch.cat([places, visibility], dim=2))
        result.append(instances)
    visible = result[0].gt_keypoints.tensor[:, :, 2]
    visible[0] = 2
    visible[1] = torch.tensor([0.0, 1, 2, 0, 1, 2])
    result[3].gt_keypoints.tensor[0, 0] = torch.tensor([100.0, 60.0, 2.0])
    return result


def proposals(instances: list[Instances]) -> list[Instances]:
    """Boxes around the objects, shifted by up to a fifth, and boxes anywhere."""
    generator = torch.Generator().manual_seed(3)
    result = []
    for target in instances:
        near = target.gt_boxes.tensor.repeat(5, 1)
        sides = (near[:, 2:] - near[:, :2]).repeat(1, 2)
        near = near + (torch.rand(near.shape, generator=generator) - 0.5) * 0.4 * sides
        height, width = target.image_size
        anywhere = torch.rand(10, 2, 2, generator=generator) * torch.tensor([width, height])
        anywhere = anywhere.sort(dim=1).values.reshape(-1, 4) + torch.tensor([0.0, 0, 4, 4])
        boxes = Boxes(torch.cat([near, anywhere]))
        boxes.clip(target.image_size)
        found = Instances(target.image_size, proposal_boxes=boxes)
        found.objectness_logits = torch.zeros(len(boxes))
        result.append(found)
    return result


def train(
    heads: StandardROIHeads, instances: list[Instances]
) -> tuple[list[Instances], dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Sampled proposals, losses, and the gradients of all losses together."""
    maps = features()
    given = proposals(instances)
    torch.manual_seed(4)  # which proposals are sampled
    with EventStorage():
        sampled, losses = heads.train()(None, maps, given, instances)
    heads.zero_grad()
    sum(losses.values()).backward()
    gradients = {name: p.grad.clone() for name, p in heads.named_parameters()}
    gradients.update({name: feature.grad for name, feature in maps.items()})
    return sampled, {name: loss.detach() for name, loss in losses.items()}, gradients


def loss_by_loops(heads: StandardROIHeads, sampled: list[Instances]) -> tuple[float, int]:
    """Section 5, word by word, in float64: sum of cross-entropies and visible keypoints.

    A keypoint is one place of m x m; only positive RoIs are trained on, and only the visible
    ground-truth keypoints that lie in the RoI.
    """
    positive = [p[p.gt_classes == 0] for p in sampled]
    maps = [feature.detach() for feature in features().values()]
    with torch.no_grad():
        pooled = heads.keypoint_pooler(maps, [p.proposal_boxes for p in positive])
        logits = heads.keypoint_head.layers(pooled).double()
    side = logits.shape[-1]
    assert side == 56
    boxes = [box for p in positive for box in p.proposal_boxes.tensor.tolist()]
    points = [person for p in positive if len(p) for person in p.gt_keypoints.tensor.tolist()]
    total, count = 0.0, 0
    for (x1, y1, x2, y2), keypoints, heatmaps in zip(boxes, points, logits, strict=True):
        for (x, y, visibility), heatmap in zip(keypoints, heatmaps, strict=True):
            if visibility == 0 or not (x1 <= x <= x2 and y1 <= y <= y2):
                continue
            column = min(int((x - x1) / (x2 - x1) * side), side - 1)
            row = min(int((y - y1) / (y2 - y1) * side), side - 1)
            total -= float(heatmap.flatten().log_softmax(0).reshape(side, side)[row, column])
            count += 1
    return total, count


@pytest.mark.parametrize(("normalizer", "weight"), [("visible", 1.0), (7.5, 1.0), ("visible", 0.3)])
def test_loss_and_gradients_of_whole_heads(normalizer, weight):
    ours, theirs = both_heads(normalizer, weight)
    sampled, losses, gradients = train(ours, targets())
    expected_sampled, expected_losses, expected_gradients = train(theirs, targets())
    for mine, stock in zip(sampled, expected_sampled, strict=True):
        assert torch.equal(mine.proposal_boxes.tensor, stock.proposal_boxes.tensor)
    assert set(losses) == {"loss_cls", "loss_box_reg", "loss_keypoint"}
    torch.testing.assert_close(losses, expected_losses, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-5, atol=2e-6)
    for name in ("keypoint_head.conv_fcn1.weight", "keypoint_head.score_lowres.weight", "p2", "p3"):
        assert gradients[name].abs().max() > 1e-4, name

    total, count = loss_by_loops(ours, sampled)
    assert count > 20
    divisor = count if normalizer == "visible" else normalizer * len(SIZES)
    assert losses["loss_keypoint"].item() == pytest.approx(weight * total / divisor, rel=1e-5)


def test_targets_of_this_file_have_every_case():
    """Positive RoIs that cut off visible keypoints, have only invisible ones, or none at all."""
    ours, _ = both_heads()
    sampled, _, _ = train(ours, targets())
    positive = [p[p.gt_classes == 0] for p in sampled]
    assert [len(p) > 0 for p in positive] == [True, False, True, True]
    kinds = set()
    for p in positive:
        if not len(p):
            continue
        box = p.proposal_boxes.tensor[:, None]
        point = p.gt_keypoints.tensor
        inside = ((point[..., :2] >= box[..., :2]) & (point[..., :2] <= box[..., 2:])).all(dim=2)
        kinds |= set(zip(point[..., 2].flatten().tolist(), inside.flatten().tolist(), strict=True))
    assert kinds == {(v, inside) for v in (0.0, 1.0, 2.0) for inside in (True, False)}


def test_batch_without_visible_keypoints_trains_nothing_in_the_branch():
    ours, theirs = both_heads()
    instances = [targets()[1], targets()[2], targets()[1], targets()[1]]
    for target, size in zip(instances, SIZES, strict=True):
        target._image_size = size
    for heads in (ours, theirs):
        _, losses, gradients = train(heads, instances)
        assert losses["loss_keypoint"] == 0
        branch = [g for name, g in gradients.items() if name.startswith("keypoint_head")]
        assert len(branch) == 4 and all((g == 0).all() for g in branch)


@torch.no_grad()
def test_inference_of_whole_heads():
    ours, theirs = both_heads()
    given = proposals(targets())
    given[2] = given[2][:0]  # an image without proposals
    results = [heads.eval()(None, features(), copy.deepcopy(given))[0] for heads in (ours, theirs)]
    for mine, stock in zip(*results, strict=True):
        assert list(mine.get_fields()) == list(stock.get_fields())
        assert mine.pred_keypoints.shape == (len(mine), NUM_KEYPOINTS, 3)
        for name in ("scores", "pred_keypoints", "pred_keypoint_heatmaps"):
            torch.testing.assert_close(mine.get(name), stock.get(name), rtol=1e-5, atol=1e-4)
        boxes = (mine.pred_boxes.tensor, stock.pred_boxes.tensor)
        torch.testing.assert_close(*boxes, rtol=1e-5, atol=1e-4)
    counts = [len(r) for r in results[0]]
    assert counts[2] == 0 and sum(counts) > 20
    # cascaded: the heatmaps are those of the final boxes, not of the proposals
    overlap = pairwise_iou(results[0][0].pred_boxes, given[0].proposal_boxes)
    assert (overlap.max(dim=1).values < 0.999).any()


# --- from heatmaps to coordinates -----------------------------------------------------------


def cubic_matrix(size_in: int, size_out: int) -> np.ndarray:
    """(size_out, size_in) weights of cubic convolution (Keys 1981, a = -0.75), edges repeated.

    Cell i of either grid lies at (i + 0.5) / size.
    """
    a = -0.75
    matrix = np.zeros((size_out, size_in))
    for out in range(size_out):
        position = (out + 0.5) * size_in / size_out - 0.5
        first = math.floor(position) - 1
        for tap in range(first, first + 4):
            d = abs(position - tap)
            if d <= 1:
                weight = (a + 2) * d**3 - (a + 3) * d**2 + 1
            elif d < 2:
                weight = a * (d**3 - 5 * d**2 + 8 * d - 4)
            else:
                weight = 0.0
            matrix[out, min(max(tap, 0), size_in - 1)] += weight
    return matrix


def decode(heatmap: np.ndarray, box: list[float]) -> tuple[float, float, float]:
    """x, y and score of one heatmap: resized to whole pixels, best pixel's centre."""
    x1, y1, x2, y2 = box
    width, height = max(x2 - x1, 1.0), max(y2 - y1, 1.0)
    columns, rows = math.ceil(width), math.ceil(height)
    side = len(heatmap)
    resized = cubic_matrix(side, rows) @ heatmap @ cubic_matrix(side, columns).T
    row, column = np.unravel_index(resized.argmax(), resized.shape)
    score = 1 / np.exp(heatmap - resized.max()).sum()
    return x1 + (column + 0.5) * width / columns, y1 + (row + 0.5) * height / rows, score


@torch.no_grad()
def test_decoded_places_and_scores():
    """Boxes of any size, shape and place, also without area."""
    boxes = [
        [10.25, 20.5, 73.125, 101.75],  # fractions: the pixel is not quite 1 px
        [0.0, 0.0, 56.0, 56.0],  # the heatmap itself
        [3.0, 4.0, 31.0, 18.0],  # coarser than the heatmap
        [-20.0, 5.5, 180.0, 12.0],  # wide and flat, partly outside of the image
        [7.5, 7.5, 8.1, 7.9],  # less than a pixel
        [9.0, 9.0, 9.0, 9.0],  # without area
    ]
    head = KeypointHead(ShapeSpec(channels=CHANNELS), num_keypoints=3, num_conv=1, conv_dim=8)
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(len(boxes), CHANNELS, 14, 14, generator=generator) * 4
    instances = Instances((100, 100), pred_boxes=Boxes(torch.tensor(boxes)))
    (result,) = head.eval()(x, [instances])
    maps = result.pred_keypoint_heatmaps
    assert torch.equal(maps, head.layers(x))
    reference = heatmaps_to_keypoints(maps.clone(), instances.pred_boxes.tensor)
    assert torch.equal(result.pred_keypoints, reference[:, :, [0, 1, 3]])
    expected = [[decode(m.double().numpy(), box) for m in maps[i]] for i, box in enumerate(boxes)]
    np.testing.assert_allclose(result.pred_keypoints.numpy(), expected, rtol=1e-4, atol=1e-4)
