"""Test-time augmentation: views, merging, averaging, and that one view changes nothing."""

from __future__ import annotations

import copy
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig
from detectron2.data.transforms import AugInput, ResizeShortestEdge
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.modeling.roi_heads import keypoint_head
from detectron2.structures import Boxes, Instances
from detectron2.structures.keypoints import heatmaps_to_keypoints
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.ops import roi_align

from mask_rcnn_repro.data.keypoint_metadata import keypoint_flip_indices
from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.modeling import StageWiseRCNN
from mask_rcnn_repro.modeling import TestTimeAugmentation as TTA  # Test...: not for pytest
from mask_rcnn_repro.modeling.inference.tta_views import (
    View,
    batches,
    make_views,
    one_ahead,
)

from .model_helpers import MODELS, build, narrow_config

# --- views ------------------------------------------------------------------------------------


def test_boxes_and_points_by_hand():
    """An image of 40 x 60 at twice its size, mirrored: x becomes 120 - 2 x."""
    view = View((40, 60), (80, 120), flip=True)
    box = torch.tensor([[10.0, 5.0, 30.0, 20.0]])
    assert view.boxes_in_view(box).tolist() == [[60, 10, 100, 40]]
    assert view.boxes_in_image(torch.tensor([[60.0, 10.0, 100.0, 40.0]])).tolist() == box.tolist()
    assert view.points_in_image(torch.tensor([[[100.0, 10.0]]])).tolist() == [[[10, 5]]]
    plain = View((40, 60), (20, 45), flip=False)  # edges scaled by different factors
    assert plain.boxes_in_view(box).tolist() == [[7.5, 2.5, 22.5, 10]]
    assert plain.points_in_image(torch.tensor([[7.5, 2.5]])).tolist() == [[10, 5]]
    assert view.boxes_in_view(box[:0]).shape == view.boxes_in_image(box[:0]).shape == (0, 4)


@settings(max_examples=100, deadline=None)
@given(
    st.tuples(*[st.integers(1, 2000)] * 4),
    st.booleans(),
    st.lists(st.floats(0, 1), min_size=4, max_size=4),
)
def test_boxes_of_a_view_come_back_bit_for_bit(sizes, flip, fractions):
    height, width, h, w = sizes
    view = View((height, width), (h, w), flip)
    box = torch.tensor([fractions]) * torch.tensor([w, h, w, h])
    again = view.boxes_in_view(view.boxes_in_image(box)).float()
    if flip:  # what is far below a pixel is lost to the subtraction from the width
        torch.testing.assert_close(again, box, rtol=0, atol=1e-10)
    else:
        assert torch.equal(again, box)


def picture(height=48, width=70, channels=3):
    generator = torch.Generator().manual_seed(1)
    shape = (channels, height, width)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("edge", "limit"), [(31, 4000), (48, 4000), (100, 120)])
def test_a_view_is_what_the_mapper_makes(edge, limit, channels):
    image = picture(channels=channels)
    seen = AugInput(image.permute(1, 2, 0).numpy())
    ResizeShortestEdge([edge], limit, "choice")(seen)
    expected = torch.as_tensor(seen.image.copy()).permute(2, 0, 1)
    plain, mirrored = make_views((48, 70), [edge], True, limit)
    assert plain.size == mirrored.size == tuple(expected.shape[1:])
    assert torch.equal(plain.render(image), expected)
    assert torch.equal(mirrored.render(image), expected.flip(2))
    assert plain.render(image).dtype == torch.uint8


def test_sizes_of_the_paper():
    views = make_views((480, 640), range(400, 1201, 100), True, 4000)
    assert [v.size[0] for v in views[::2]] == [400, 500, 600, 700, 800, 900, 1000, 1100, 1200]
    assert [v.flip for v in views] == [False, True] * 9
    assert views[1].size == (400, 533)
    assert len(make_views((480, 640), [400], False, 4000)) == 1
    assert make_views((100, 1000), [400], False, 2000)[0].size == (200, 2000)


def test_batches_hold_one_size_and_no_more_than_allowed():
    views = make_views((40, 40), [10, 20, 20], True, 4000)
    assert [len(b) for b in batches(views, 3)] == [2, 3, 1]
    assert [len(b) for b in batches(views, 1)] == [1] * 6
    assert [v for b in batches(views, 3) for v in b] == views
    assert list(batches([], 2)) == []


@pytest.mark.parametrize("count", [0, 1, 4])
def test_items_are_prepared_while_the_caller_works(count):
    """Waiting for what is prepared next: without a thread nobody would come back."""
    prepared = [threading.Event() for _ in range(count)]
    names = []

    def prepare(item):
        names.append(threading.current_thread().name)
        prepared[item].set()
        return -item

    found = []
    for result in one_ahead(range(count), prepare):
        assert len(found) + 1 == count or prepared[len(found) + 1].wait(timeout=20)
        found.append(result)
    assert found == [-i for i in range(count)]
    assert all(name.startswith("views") for name in names) and len(names) == count


def test_an_error_of_a_view_comes_in_its_turn():
    found = one_ahead([1, 0, 1], lambda item: 1 / item)
    assert next(found) == 1.0
    with pytest.raises(ZeroDivisionError):
        next(found)


def test_batches_with_views():
    """Every size is resized once; equal sizes are one."""
    images = [picture(), picture(30, 40), picture(40, 30)]
    batches = [[{"image": images[0], "image_id": 7}], [{"image": i} for i in images[1:]]]
    tta = TTA(PixelDetector(keypoint_on=False), [32, 64, 32], max_size=80)
    found = list(tta.views_ahead(batches))
    assert [[set(item) - {"views"} for item in batch] for batch in found] == [
        [{"image", "image_id"}],
        [{"image"}] * 2,
    ]
    for item in [item for batch in found for item in batch]:
        views = make_views(tuple(item["image"].shape[1:]), [32, 64], False, 80)
        assert list(item["views"]) == [view.size for view in views]
        assert all(torch.equal(item["views"][v.size], v.render(item["image"])) for v in views)
    assert [set(item) for batch in batches for item in batch] == [
        {"image", "image_id"},
        {"image"},
        {"image"},
    ]


def test_views_of_the_loader_are_used(monkeypatch):
    tta = TTA(PixelDetector(), [32, 64], keypoint_hflip_indices=[1, 0, 2])
    (expected,) = tta.inference([{"image": figure()}])
    ((item,),) = tta.views_ahead([[{"image": figure()}]])
    monkeypatch.setattr(View, "render", None)  # not called again
    (found,) = tta.inference([item])
    for name in ("scores", "pred_masks", "pred_keypoints"):
        assert torch.equal(found.get(name), expected.get(name))


# --- a detector by hand -----------------------------------------------------------------------

SIDE = 16  # of its masks and heatmaps


class PixelDetector(nn.Module):
    """Sees what is bright: its box, its shape, its left and right end.

    As in an image of a person, "left" is what lies on the right of the image: in a mirrored image
    another end is called left. Keypoint 0 is left, 1 is right, 2 the middle.

    Args:
        found: Boxes, scores and classes of each call for boxes; None finds the bright object.
    """

    def __init__(self, found=None, **switches):
        super().__init__()
        self.proposal_generator = nn.Identity()
        self.roi_heads = SimpleNamespace(
            box_predictor=SimpleNamespace(test_nms_thresh=0.5, test_topk_per_image=3),
            keypoint_head=SimpleNamespace(num_keypoints=3),
            **{"mask_on": True, "keypoint_on": True, **switches},
        )
        self.found = found
        self.device = torch.device("cpu")
        self.calls = []

    def inference(self, inputs, detected_instances=None, do_postprocess=True):
        assert not do_postprocess and all(set(x) == {"image"} for x in inputs)
        sizes = [tuple(x["image"].shape[1:]) for x in inputs]
        self.calls.append((sizes, detected_instances is not None))
        results = detected_instances or [self.boxes(x["image"]) for x in inputs]
        for result, item in zip(results, inputs, strict=True):
            self.add_maps(result, item["image"])
        return results

    def boxes(self, image):
        if self.found is not None:
            boxes, scores, classes = self.found.pop(0)
        else:
            rows, columns = (image[0] > 127).nonzero().unbind(1)
            box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            boxes, scores, classes = [[float(x) for x in box]], [0.9], [0]
        return Instances(
            tuple(image.shape[1:]),
            pred_boxes=Boxes(torch.tensor(boxes).reshape(-1, 4)),
            scores=torch.tensor(scores),
            pred_classes=torch.tensor(classes, dtype=torch.int64),
        )

    def add_maps(self, result, image):
        pooled = roi_align(
            image[None, :1].float() / 255, [result.pred_boxes.tensor], SIDE, aligned=True
        )
        if self.roi_heads.mask_on:
            result.pred_masks = pooled
        if self.roi_heads.keypoint_on:
            column = torch.arange(SIDE)
            parts = [column >= 12, column < 4, (column >= 6) & (column < 10)]
            result.pred_keypoint_heatmaps = torch.cat([pooled * part for part in parts], dim=1) * 20
            result.pred_keypoints = torch.zeros(len(result), 3, 3)


def figure():
    """64 x 96: a foot from (16, 32) to (80, 48), on its left end a post up to y = 16."""
    image = torch.zeros(3, 64, 96, dtype=torch.uint8)
    image[:, 32:48, 16:80] = 140
    image[:, 16:32, 16:32] = 140
    image[:, 40:44, 76:80] = 255  # left end: on the right
    image[:, 20:24, 16:20] = 255  # right end: on the left
    image[:, 32:36, 46:50] = 255
    return image


ENDS = torch.tensor([[78.0, 42.0], [18.0, 22.0], [48.0, 34.0]])


def detect(model, image, **arguments):
    return TTA(model, **{"keypoint_hflip_indices": [1, 0, 2], **arguments}).inference(
        [{"image": image}]
    )[0]


@pytest.mark.parametrize("sizes", [[64], [32, 64, 128]])
def test_masks_and_keypoints_of_mirrored_views_are_mirrored_back(sizes):
    image = figure()
    plain = detect(PixelDetector(), image, sizes=[64], flip=False)
    found = detect(PixelDetector(), image, sizes=sizes)
    assert found.image_size == (64, 96)
    torch.testing.assert_close(
        found.pred_boxes.tensor, torch.tensor([[16.0, 16.0, 80.0, 48.0]]), rtol=0, atol=2.01
    )
    # the post stands on the left, in the plain and in the merged mask
    for masks in (plain.pred_masks, found.pred_masks):
        assert masks.shape == (1, 1, SIDE, SIDE)
        assert masks[0, 0, 1:6, 1:3].min() > 0.4 and masks[0, 0, 1:6, 6:].max() < 0.05
    assert (found.pred_masks - plain.pred_masks).abs().mean() < 0.05  # cells at the border differ
    for keypoints in (plain.pred_keypoints, found.pred_keypoints):
        assert keypoints.shape == (1, 3, 3)
        torch.testing.assert_close(keypoints[0, :, :2], ENDS, rtol=0, atol=2.5)


def test_keypoints_without_partners_stay_where_they_are():
    """Wrong indices are really used: with them each end is seen on both sides."""
    found = detect(PixelDetector(), figure(), sizes=[64], keypoint_hflip_indices=[0, 1, 2])
    torch.testing.assert_close(found.pred_keypoints[0, 2, :2], ENDS[2], rtol=0, atol=2.5)
    assert (found.pred_keypoints[0, :2, :2] - ENDS[:2]).abs().max() > 20
    right = detect(PixelDetector(), figure(), sizes=[64])
    assert (right.pred_keypoints[..., 2] > 1.5 * found.pred_keypoints[..., 2])[0, :2].all()


class Scripted(PixelDetector):
    """Its maps are numbers: of the first view 0, of the second 1, and so on."""

    heat = 10.0

    def add_maps(self, result, image):
        number = sum(len(sizes) for sizes, given in self.calls[:-1] if given)
        number += self.position
        self.position += 1
        size = (len(result), 1, SIDE, SIDE)
        self.seen.append(result)
        if self.roi_heads.mask_on:
            result.pred_masks = torch.full(size, float(number))
        if self.roi_heads.keypoint_on:
            result.pred_keypoint_heatmaps = torch.full(size, self.heat * number).repeat(1, 3, 1, 1)

    def inference(self, inputs, *args, **kwargs):
        self.position, self.seen = 0, []
        return super().inference(inputs, *args, **kwargs)


def test_means_are_over_views_and_not_over_batches():
    """Five views in batches of two: 2, 2 and 1."""
    image = torch.zeros(3, 40, 40, dtype=torch.uint8)
    one = ([[4.0, 4.0, 20.0, 20.0]], [0.5], [0])
    model = Scripted([one] * 5)
    found = detect(model, image, sizes=[40] * 5, flip=False)
    assert torch.equal(found.pred_masks, torch.full((1, 1, SIDE, SIDE), 2.0))
    assert [(len(sizes), given) for sizes, given in model.calls] == [
        *[(2, False), (2, False), (1, False)],
        *[(2, True), (2, True), (1, True)],
    ]


def test_keypoints_are_read_off_at_the_resolution_of_the_largest_view():
    """Of equally good places the first: half a pixel of that view from the box's corner."""
    nothing = ([], [], [])
    model = Scripted([([[5.0, 2.5, 15.0, 10.0]], [0.5], [0]), *[nothing] * 5])
    model.heat = 0.0
    image = torch.zeros(3, 40, 80, dtype=torch.uint8)
    found = detect(model, image, sizes=[20, 80, 40])
    assert found.pred_boxes.tensor.tolist() == [[10, 5, 30, 20]]
    assert found.pred_keypoints[0, :, :2].tolist() == [[10.25, 5.25]] * 3


def test_boxes_are_united_and_suppressed_class_by_class():
    """Three views of 40 x 80: as it is, mirrored, and (with its mirror image) twice as large."""
    views = [
        # at size 40: object A; B of another class in the same place; C far away
        (
            [[0.0, 0.0, 20.0, 20.0], [0.0, 0.0, 20.0, 20.0], [50.0, 10.0, 70.0, 30.0]],
            [0.6, 0.5, 0.4],
            [0, 1, 0],
        ),
        # mirrored: A again, better, overlap 19 * 20 / (21 * 20)
        ([[59.0, 0.0, 79.0, 20.0]], [0.9], [0]),
        # at size 80: C again, overlap exactly 1/2, which is not more than 1/2: stays
        ([[100.0, 20.0, 140.0, 40.0]], [0.3], [0]),
        ([], [], []),  # and nothing
    ]
    model = PixelDetector(views, mask_on=False, keypoint_on=False)
    image = torch.zeros(3, 40, 80, dtype=torch.uint8)
    found = detect(model, image, sizes=[40, 80])
    assert found.pred_boxes.tensor.tolist() == [[1, 0, 21, 20], [0, 0, 20, 20], [50, 10, 70, 30]]
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.5, 0.4]))
    assert found.pred_classes.tolist() == [0, 1, 0]
    assert set(found.get_fields()) == {"pred_boxes", "scores", "pred_classes"}
    assert [given for _, given in model.calls] == [False, False]  # no second pass

    model = PixelDetector(views := [*views_again()], mask_on=False, keypoint_on=False)
    model.roi_heads.box_predictor.test_topk_per_image = -1  # no limit
    assert len(detect(model, image, sizes=[40, 80])) == 4
    assert views == []


def views_again():
    box = [[0.0, 0.0, 10.0, 10.0]]
    yield box, [0.9], [0]
    yield box, [0.8], [0]  # mirrored: on the other side
    yield [[20.0, 20.0, 30.0, 30.0], [0.0, 0.0, 20.0, 20.0]], [0.7, 0.6], [1, 0]  # the 2nd: the 1st
    yield [[20.0, 20.0, 30.0, 30.0]], [0.5], [1]


def test_given_boxes_are_those_of_each_view():
    image = torch.zeros(3, 40, 80, dtype=torch.uint8)
    nothing = ([], [], [])
    model = Scripted([([[10.0, 5.0, 30.0, 20.0]], [0.5], [4]), *[nothing] * 3])
    seen = []
    run = model.inference

    def inference(inputs, given=None, **kwargs):
        seen.extend(given or [])
        return run(inputs, given, **kwargs)

    model.inference = inference
    detect(model, image, sizes=[40, 80])
    assert [i.image_size for i in seen] == [(40, 80)] * 2 + [(80, 160)] * 2
    assert [i.pred_boxes.tensor.tolist() for i in seen] == [
        [[10, 5, 30, 20]],
        [[50, 5, 70, 20]],
        [[20, 10, 60, 40]],
        [[100, 10, 140, 40]],
    ]
    assert all(i.pred_classes.tolist() == [4] and i.scores.tolist() == [0.5] for i in seen)
    assert all(i.pred_boxes.tensor.dtype == torch.float32 for i in seen)


def test_memory_is_bounded_by_the_batch():
    model = PixelDetector()
    detect(model, figure(), sizes=[32, 64, 96], views_per_batch=2)
    assert [sizes for sizes, _ in model.calls] == [
        [(32, 48)] * 2,
        [(64, 96)] * 2,
        [(96, 144)] * 2,
    ] * 2
    model = PixelDetector()
    detect(model, figure(), sizes=[32, 64], views_per_batch=1)
    assert {len(sizes) for sizes, _ in model.calls} == {1}


def test_an_error_leaves_the_heads_as_they_were():
    model = PixelDetector(keypoint_on=False)
    model.boxes = None
    with pytest.raises(TypeError):
        detect(model, figure(), sizes=[64])
    assert model.roi_heads.mask_on is True and model.roi_heads.keypoint_on is False


def test_voting_by_hand():
    """At size 40 and mirrored, and at size 80: what overlaps by 0.9 moves the best box."""
    views = [
        ([[0.0, 0.0, 20.0, 20.0], [0.0, 0.0, 19.0, 20.0]], [0.6, 0.2], [0, 0]),  # 0.95
        ([[60.0, 0.0, 78.0, 20.0]], [0.1], [0]),  # of another width: 18 / 20, from 2 to 20
        ([[0.0, 0.0, 34.0, 40.0], [0.0, 0.0, 40.0, 40.0]], [0.5, 0.4], [0, 1]),  # 0.85; class 1
        ([], [], []),
    ]
    model = PixelDetector([*views], mask_on=False, keypoint_on=False)
    limits = []
    run, predictor = model.boxes, model.roi_heads.box_predictor

    def boxes(image):
        limits.append((predictor.test_nms_thresh, predictor.test_topk_per_image))
        return run(image)

    model.boxes = boxes
    image = torch.zeros(3, 40, 80, dtype=torch.uint8)
    found = detect(model, image, sizes=[40, 80], vote_iou=0.9)
    expected = [[0.2 / 0.9, 0, (12 + 3.8 + 2.0) / 0.9, 20], [0, 0, 20, 20]]
    torch.testing.assert_close(found.pred_boxes.tensor, torch.tensor(expected))
    torch.testing.assert_close(found.scores, torch.tensor([0.6, 0.4]))
    assert found.pred_classes.tolist() == [0, 1]
    assert limits == [(float("inf"), -1)] * 4  # NMS of a view would leave it fewer votes
    assert (predictor.test_nms_thresh, predictor.test_topk_per_image) == (0.5, 3)


class OnStoredProposals(PixelDetector):
    """Its boxes and probabilities, one of each for every proposal and view, are given."""

    def __init__(self, boxes, probs):
        super().__init__(mask_on=False, keypoint_on=False)
        self.proposal_generator = None
        self.roi_heads.box_predictor = SimpleNamespace(
            test_score_thresh=0.05,
            test_nms_thresh=0.5,
            test_topk_per_image=3,
            predict_boxes=lambda _, proposals: [torch.tensor(boxes.pop(0)) for _ in proposals],
            predict_probs=lambda _, proposals: [torch.tensor(probs.pop(0)) for _ in proposals],
        )
        self.seen = []

    def inference(self, inputs, detected_instances=None, do_postprocess=True):
        proposals = [item["proposals"] for item in inputs]
        self.seen += proposals
        return self.roi_heads.box_predictor.inference(None, proposals)[0]


@pytest.mark.parametrize("agnostic", [True, False])
def test_averaging_on_stored_proposals_by_hand(agnostic):
    """Boxes of an image of 40 x 80 and of its mirror image, where x becomes 80 - x; two classes."""
    plain = [[0.0, 0.0, 20.0, 20.0], [40.0, 10.0, 60.0, 30.0], [0.0, 0.0, 20.0, 18.0]]
    mirrored = [[58.0, -9.0, 82.0, 20.0], [18.0, 10.0, 40.0, 30.0], [60.0, 0.0, 80.0, 18.0]]
    if not agnostic:  # of class 1, moved down by 4
        plain, mirrored = (
            [[*box, *(v + 4 * (i % 2) for i, v in enumerate(box))] for box in boxes]
            for boxes in (plain, mirrored)
        )
    # of class 0, class 1, background; what is 0.06 in one view and 0.02 in the other is dropped
    probs = [[0.8, 0.1, 0.1], [0.06, 0.04, 0.9], [0.7, 0.0, 0.3]]
    others = [[0.4, 0.3, 0.3], [0.02, 0.09, 0.89], [0.3, 0.0, 0.7]]
    model = OnStoredProposals([plain, mirrored], [probs, others])
    image = torch.zeros(3, 40, 80, dtype=torch.uint8)
    proposals = Instances(
        (40, 80), proposal_boxes=Boxes([[0, 0, 9, 9], [5, 5, 9, 9], [1, 1, 3, 3]])
    )
    proposals.objectness_logits = torch.tensor([3.0, 2.0, 1.0])
    tta = TTA(model, [40], average_boxes=True)
    (found,) = tta.inference([{"image": image, "proposals": proposals}])
    # clipped in its view, [58, 0, 80, 20] is [0, 0, 22, 20]; the third is suppressed by the first
    first, second = [0.0, 0.0, 21.0, 20.0], [40.0, 10.0, 61.0, 30.0]
    down = 0 if agnostic else 4
    other = [0.0, down / 2, 21.0, 20.0 + down]  # -9 + 4 is clipped to 0
    expected = [first, other, [second[0], second[1] + down, second[2], second[3] + down]]
    assert found.pred_boxes.tensor.tolist() == expected
    torch.testing.assert_close(found.scores, torch.tensor([0.6, 0.2, 0.065]))
    assert found.pred_classes.tolist() == [0, 1, 1]
    assert [p.proposal_boxes.tensor[0].tolist() for p in model.seen] == [
        [0, 0, 9, 9],
        [71, 0, 80, 9],
    ]
    assert all(p.objectness_logits.tolist() == [3, 2, 1] for p in model.seen)
    assert isinstance(model.roi_heads.box_predictor, SimpleNamespace)  # restored


def test_a_proposal_whose_box_is_not_finite_in_one_view_is_dropped():
    boxes = [[[0.0, 0.0, 9.0, 9.0], [20.0, 0.0, 29.0, 9.0]]] * 2
    model = OnStoredProposals(
        [boxes[0], [boxes[1][0], [float("nan")] * 4]], [[[0.9, 0.1]] * 2, [[0.8, 0.2]] * 2]
    )
    proposals = Instances((40, 40), proposal_boxes=Boxes(torch.ones(2, 4)))
    proposals.objectness_logits = torch.zeros(2)
    item = {"image": torch.zeros(3, 40, 40, dtype=torch.uint8), "proposals": proposals}
    (found,) = TTA(model, [40, 40], flip=False, average_boxes=True).inference([item])
    torch.testing.assert_close(found.scores, torch.tensor([0.85]))


# --- whole models -----------------------------------------------------------------------------


def keypoint_config():
    model = narrow_config("fpn", depth=18)
    branch = LazyConfig.load(str(MODELS / "keypoint_branch.py")).keypoint_branch
    model.roi_heads.merge_with(branch)
    model.roi_heads.num_classes = 1
    model.roi_heads.keypoint_head.num_conv = 1
    model.roi_heads.keypoint_head.conv_dim = 8
    return model


def detector(kind):
    """With scores and deltas that differ from box to box."""
    if kind == "keypoints":
        config = keypoint_config()
    else:
        config = narrow_config(kind, depth=50 if kind == "c4" else 18)
    model = build(config).eval()
    predictor = model.roi_heads.box_predictor
    torch.nn.init.normal_(predictor.cls_score.weight, std=0.5)
    torch.nn.init.normal_(predictor.bbox_pred.weight, std=0.2)
    torch.nn.init.normal_(model.roi_heads.mask_head.predictor.weight, std=0.5)
    predictor.test_nms_thresh = 0.5
    predictor.test_topk_per_image = 25
    return model


@pytest.fixture(scope="module", params=["c4", "fpn", "keypoints"])
def model(request):
    return detector(request.param)


HEIGHT, WIDTH = 75, 113


def mapped(image, edge, limit=1333):
    """As the test mapper gives it."""
    (view,) = make_views(tuple(image.shape[1:]), [edge], False, limit)
    return {"image": view.render(image), "height": image.shape[1], "width": image.shape[2]}


@pytest.mark.parametrize(("edge", "limit"), [(96, 1333), (96, 110), (60, 1333)])
@torch.no_grad()
def test_one_view_is_plain_inference(model, edge, limit):
    image = picture(HEIGHT, WIDTH)
    plain = model.inference([mapped(image, edge, limit)], do_postprocess=False)[0]
    tta = TTA(model, [edge], flip=False, max_size=limit)
    (found,) = tta.inference([{"image": image}])
    assert found.image_size == (HEIGHT, WIDTH) and len(found) == len(plain) >= 10
    assert torch.equal(found.scores, plain.scores)
    assert torch.equal(found.pred_classes, plain.pred_classes)
    assert torch.equal(found.pred_masks, plain.pred_masks)
    expected = detector_postprocess(plain, HEIGHT, WIDTH)  # drops boxes without area
    (pasted,) = tta([{"image": image, "height": HEIGHT, "width": WIDTH}])
    again = pasted["instances"]
    assert set(again.get_fields()) == set(expected.get_fields()) - {"pred_keypoint_heatmaps"}
    torch.testing.assert_close(
        again.pred_boxes.tensor, expected.pred_boxes.tensor, rtol=0, atol=2e-5
    )
    assert again.pred_masks.shape == (len(expected), HEIGHT, WIDTH)
    assert (again.pred_masks != expected.pred_masks).float().mean() < 1e-4
    if expected.has("pred_keypoints"):
        places, expected_places = again.pred_keypoints, expected.pred_keypoints
        torch.testing.assert_close(places, expected_places, rtol=1e-5, atol=2e-5)


@torch.no_grad()
def test_one_view_of_stored_proposals_is_plain_inference(model):
    image = picture(HEIGHT, WIDTH)
    inputs = mapped(image, 96)
    height, width = inputs["image"].shape[1:]
    features = model.backbone(model.preprocess_image([inputs]).tensor)
    images = model.preprocess_image([inputs])
    (proposals,) = model.proposal_generator(images, features, None)[0]
    scale = torch.tensor([WIDTH / width, HEIGHT / height] * 2)
    stored = Instances((HEIGHT, WIDTH), objectness_logits=proposals.objectness_logits)
    stored.proposal_boxes = Boxes(proposals.proposal_boxes.tensor * scale)
    model = copy.deepcopy(model)
    model.proposal_generator = None
    plain = model.inference([{**inputs, "proposals": proposals}], do_postprocess=False)[0]
    tta = TTA(model, [96], flip=False, average_boxes=True)
    (found,) = tta.inference([{"image": image, "proposals": stored}])
    assert len(found) == len(plain) >= 10
    assert torch.equal(found.pred_classes, plain.pred_classes)
    torch.testing.assert_close(found.scores, plain.scores)
    torch.testing.assert_close(found.pred_masks, plain.pred_masks, rtol=1e-3, atol=1e-3)
    stored = stored[:0]
    (found,) = tta.inference([{"image": image, "proposals": stored}])
    assert len(found) == 0 and found.pred_masks.shape[:2] == (0, 1)


@torch.no_grad()
def test_several_views_give_all_fields_and_do_not_depend_on_the_batches(model):
    image = picture(HEIGHT, WIDTH)
    one, two = (
        TTA(model, [64, 96], views_per_batch=n).inference([{"image": image}])[0] for n in (1, 2)
    )
    assert set(one.get_fields()) == set(two.get_fields())
    assert one.has("pred_keypoints") == model.roi_heads.__dict__.get("keypoint_on", False)
    assert len(one) == 25 and (one.scores[:-1] >= one.scores[1:]).all()
    for name, value in one.get_fields().items():
        other = two.get(name)
        value, other = (getattr(v, "tensor", v) for v in (value, other))
        torch.testing.assert_close(value, other, rtol=1e-3, atol=1e-3)
    plain = model.inference([mapped(image, 96)], do_postprocess=False)[0]
    assert not torch.equal(plain.scores, one.scores)  # more was seen


@torch.no_grad()
def test_images_without_detections(model):
    kept = model.roi_heads.box_predictor.test_score_thresh
    model.roi_heads.box_predictor.test_score_thresh = 1.1
    try:
        full, small = picture(HEIGHT, WIDTH), picture(40, 40)
        found = TTA(model, [64, 96]).inference([{"image": full}, {"image": small}])
        (pasted, _) = TTA(model, [64])([{"image": full, "height": 9, "width": 8}, {"image": small}])
    finally:
        model.roi_heads.box_predictor.test_score_thresh = kept
    for instances, size in zip(found, [(HEIGHT, WIDTH), (40, 40)], strict=True):
        assert len(instances) == 0 and instances.image_size == size
        assert instances.pred_boxes.tensor.shape == (0, 4)
        assert instances.pred_masks.shape[:2] == (0, 1)
        if model.roi_heads.__dict__.get("keypoint_on"):
            assert instances.pred_keypoints.shape == (0, 17, 3)
    assert pasted["instances"].pred_masks.shape == (0, 9, 8)


@torch.no_grad()
def test_masks_and_keypoints_are_predicted_for_the_merged_boxes_alone(model):
    counts = []
    hook = model.roi_heads.mask_head.register_forward_hook(
        lambda module, args, result: counts.append(len(args[0]))
    )
    try:
        (found,) = TTA(model, [64, 96], views_per_batch=1).inference([{"image": picture()}])
    finally:
        hook.remove()
    assert counts == [len(found)] * 4


@torch.no_grad()
def candidates_of_views(model, image, views):
    """What Detectron collects: all boxes above the score threshold, in the image's frame."""
    predictor = model.roi_heads.box_predictor
    kept = predictor.test_nms_thresh, predictor.test_topk_per_image
    predictor.test_nms_thresh, predictor.test_topk_per_image = 1.0, -1
    found = []
    for view in views:
        (one,) = model.inference([{"image": view.render(image)}], do_postprocess=False)
        boxes = view.boxes_in_image(one.pred_boxes.tensor)
        found += zip(boxes.numpy(), one.scores.tolist(), one.pred_classes.tolist(), strict=True)
    predictor.test_nms_thresh, predictor.test_topk_per_image = kept
    return found


def overlap(a, b):
    sides = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)
    return sides.prod() / max((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - sides.prod(), 1e-9)


def test_voting_as_plain_loops(model):
    """Union of candidates, NMS, limit, votes: an independent implementation in numpy."""
    image = picture(HEIGHT, WIDTH)
    views = make_views((HEIGHT, WIDTH), [64, 96], True, 4000)
    candidates = sorted(candidates_of_views(model, image, views), key=lambda c: -c[1])
    kept = []
    for box, score, label in candidates:
        if all(k[2] != label or overlap(k[0], box) <= 0.5 for k in kept):
            kept.append((box, score, label))
    kept, moved = kept[:25], 0
    expected = []
    for box, _, label in kept:
        votes = [c for c in candidates if c[2] == label and overlap(c[0], box) >= 0.2]
        expected.append(np.average([v[0] for v in votes], axis=0, weights=[v[1] for v in votes]))
        moved += len(votes) > 1
    assert moved >= 5 and len(kept) == 25
    tta = TTA(model, [64, 96], vote_iou=0.2, views_per_batch=1)
    (found,) = tta.inference([{"image": image}])
    np.testing.assert_allclose(found.pred_boxes.tensor, expected, atol=2e-4)
    np.testing.assert_allclose(found.scores, [k[1] for k in kept], rtol=1e-6)
    assert found.pred_classes.tolist() == [k[2] for k in kept]
    assert model.roi_heads.box_predictor.test_nms_thresh == 0.5


@torch.no_grad()
def test_masks_and_keypoints_are_means_of_what_each_view_predicts(model):
    """Each view rendered and decoded by itself, as the model does."""
    image = picture(HEIGHT, WIDTH)
    (found,) = TTA(model, [64, 96]).inference([{"image": image}])
    boxes = found.pred_boxes.tensor
    views = make_views((HEIGHT, WIDTH), [64, 96], True, 4000)
    masks, heatmaps = [], []
    for view in views:
        given = Instances(view.size, pred_boxes=Boxes(view.boxes_in_view(boxes)))
        given.scores, given.pred_classes = found.scores, found.pred_classes
        inputs = [{"image": view.render(image)}]
        (one,) = model.inference(inputs, [given], do_postprocess=False)
        masks.append(one.pred_masks.flip(3) if view.flip else one.pred_masks)
        if one.has("pred_keypoint_heatmaps"):
            maps = one.pred_keypoint_heatmaps
            order = keypoint_flip_indices()
            heatmaps.append(maps.flip(3)[:, order] if view.flip else maps)
    torch.testing.assert_close(found.pred_masks, sum(masks) / 4, rtol=0, atol=1e-5)
    if not heatmaps:
        return
    expected = heatmaps_to_keypoints(sum(heatmaps) / 4, views[2].boxes_in_view(boxes).float())
    places = views[2].points_in_image(expected[..., :2]).float()
    torch.testing.assert_close(found.pred_keypoints[..., :2], places, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(found.pred_keypoints[..., 2], expected[..., 3], rtol=1e-3, atol=0)


@torch.no_grad()
def test_keypoints_of_single_views_are_not_decoded(monkeypatch):
    model = detector("keypoints")
    head = model.roi_heads.keypoint_head

    def refuse(*args):
        raise AssertionError("decoded")

    monkeypatch.setattr(keypoint_head, "heatmaps_to_keypoints", refuse)
    (found,) = TTA(model, [64]).inference([{"image": picture()}])
    assert found.pred_keypoints.shape == (len(found), 17, 3) and len(found) > 0
    assert model.roi_heads.keypoint_head is head
    with pytest.raises(AssertionError, match="decoded"):
        model.inference([mapped(picture(), 64)])


@torch.no_grad()
def test_a_head_with_its_own_inference_keeps_it():
    model = detector("keypoints")
    head = model.roi_heads.keypoint_head
    calls = []

    class Own(type(head)):
        def forward(self, x, instances):
            calls.append(len(x))
            return super().forward(x, instances)

    (expected,) = TTA(model, [64]).inference([{"image": picture()}])
    head.__class__ = Own
    (found,) = TTA(model, [64]).inference([{"image": picture()}])
    assert calls == [2 * len(found)]
    assert torch.equal(found.pred_keypoints, expected.pred_keypoints)


def test_a_stage_wise_model_proposes_on_every_view():
    joint = detector("fpn")
    rpn = SimpleNamespace(views=[])

    class Rpn(nn.Module):
        def forward(self, images, features, targets):
            rpn.views += [tuple(s) for s in images.image_sizes]
            return joint.proposal_generator(images, features, targets)

    rpn_model = nn.Module()
    for name in ("backbone", "pixel_mean", "pixel_std"):
        setattr(rpn_model, name, getattr(joint, name))
    rpn_model.proposal_generator = Rpn()
    heads = detector("fpn")
    heads.load_state_dict(joint.state_dict())
    heads.proposal_generator = None
    image = {"image": picture(), "proposals": None}  # stored ones are ignored
    with pytest.raises(ConfigError, match="build_predictor"):
        TTA(heads)
    joined = StageWiseRCNN(rpn_model, heads).eval()
    (found,) = TTA(joined, [64, 96]).inference([image])
    (expected,) = TTA(joint, [64, 96]).inference([image])
    assert rpn.views == [v.size for v in make_views((48, 70), [64, 96], True, 4000)]
    assert len(found) == len(expected) > 10
    for name in ("scores", "pred_masks"):
        torch.testing.assert_close(found.get(name), expected.get(name), rtol=0, atol=1e-5)


# --- what cannot work -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"sizes": []}, "one or more sizes"),
        ({"sizes": [400, 0]}, r"sizes=\[400, 0\]"),
        ({"max_size": 0}, "max_size=0"),
        ({"views_per_batch": 0}, "views_per_batch=0"),
        ({"vote_iou": 0}, "at most 1, or None; got 0"),
        ({"vote_iou": 90}, "got 90"),
        ({}, "has 3 keypoints"),  # COCO's 17
        ({"keypoint_hflip_indices": [1, 2, 0]}, "name each other"),
        ({"keypoint_hflip_indices": [1, 0, 3]}, "from 0 to 2"),
    ],
)
def test_mistakes(arguments, words):
    with pytest.raises(ConfigError, match=words):
        TTA(PixelDetector(), **arguments)


def test_averaging_needs_a_model_on_stored_proposals():
    own = PixelDetector(keypoint_on=False)
    stage_wise = StageWiseRCNN(nn.Module(), own)
    for model in (own, stage_wise):
        with pytest.raises(ConfigError, match=r"Set train\.tta\.average_boxes=false"):
            TTA(model, average_boxes=True)
    own.proposal_generator = None
    with pytest.raises(ConfigError, match="build_predictor"):
        TTA(own)
    assert TTA(own, average_boxes=True).average_boxes


def test_flips_of_keypoints_matter_only_where_both_are():
    TTA(PixelDetector(), flip=False)
    TTA(PixelDetector(keypoint_on=False))


def test_a_model_without_heads_is_refused():
    with pytest.raises(ConfigError, match="RPN stage"):
        TTA(nn.Linear(1, 1))


def test_wrapped_models_are_unwrapped():
    model = PixelDetector()
    wrapped = nn.parallel.DistributedDataParallel.__new__(nn.parallel.DistributedDataParallel)
    nn.Module.__init__(wrapped)
    wrapped.module = model
    assert TTA(wrapped, keypoint_hflip_indices=[1, 0, 2]).model is model


def test_images_need_not_be_arrays_of_their_own():
    """A slice of a larger tensor, and pixels of floating point."""
    image = picture(60, 90)[:, 5:53, 10:80]
    (view,) = make_views((48, 70), [64], False, 4000)
    assert torch.equal(view.render(image), view.render(image.clone()))
    as_float = view.render(image.float())
    assert as_float.dtype == torch.float32
    np.testing.assert_allclose(as_float, view.render(image).float(), atol=30)
