"""The exported graph beside the models that it is made of, run by Detectron2's own code."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.structures.keypoints import heatmaps_to_keypoints
from hypothesis import given, settings
from hypothesis import strategies as st

from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.modeling import (
    ClassAgnosticMaskLoss,
    MLPMaskHead,
    MultinomialMaskLoss,
    StageWiseRCNN,
)
from mask_rcnn_tools.export.boxes import suppress_by_group
from mask_rcnn_tools.export.graph import DetectorGraph
from mask_rcnn_tools.export.keypoint_decoding import decode_keypoints, map_keypoints
from mask_rcnn_tools.export.support import check_model

from .export_helpers import detector, image, with_keypoints
from .model_helpers import KINDS, build, narrow_config

SIZES = ((75, 100), (96, 64))


def model_outputs(model: Any, frame: torch.Tensor, paste: bool = False) -> list[torch.Tensor]:
    given = [{"image": frame, "height": frame.shape[1], "width": frame.shape[2]}]
    with torch.no_grad():
        found = model.inference(given, do_postprocess=paste)[0]
    found = found["instances"] if paste else found
    outputs = [found.pred_boxes.tensor, found.scores, found.pred_classes]
    if found.has("pred_masks"):
        outputs.append(found.pred_masks if paste else found.pred_masks[:, 0])
    if found.has("pred_keypoints"):
        outputs.append(found.pred_keypoints)
    return outputs


def assert_same(expected: list[torch.Tensor], got: Any) -> None:
    assert len(expected) == len(got)
    for theirs, ours in zip(expected, got, strict=True):
        assert theirs.dtype == ours.dtype and theirs.shape == ours.shape
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def assert_equal(model: torch.nn.Module, **arguments: Any) -> None:
    graph = DetectorGraph(model, **arguments).eval()
    for height, width in SIZES:
        frame = image(height, width)
        expected = model_outputs(model, frame, arguments.get("paste_masks", False))
        assert len(expected[0]) > 1
        with torch.no_grad():
            assert_same(expected, graph(frame))


@pytest.mark.parametrize("kind", KINDS)
def test_graph_gives_what_the_model_gives(kind: str) -> None:
    assert_equal(detector(kind))


@pytest.mark.parametrize("loss", [ClassAgnosticMaskLoss, MultinomialMaskLoss])
def test_mask_losses(loss: type) -> None:
    cfg = narrow_config("fpn", depth=18)
    cfg.roi_heads.mask_head.loss = L(loss)()
    assert_equal(build(cfg).eval())


def test_fully_connected_mask_head_and_class_agnostic_boxes() -> None:
    cfg = narrow_config("fpn", depth=18)
    cfg.roi_heads.box_predictor.cls_agnostic_bbox_reg = True
    old = cfg.roi_heads.mask_head
    shape = L(ShapeSpec)(channels=16, height=14, width=14)
    cfg.roi_heads.mask_head = L(MLPMaskHead)(
        input_shape=shape, num_classes=old.num_classes, loss=old.loss, fc_dim=8, output_size=10
    )
    assert_equal(build(cfg).eval())


def test_keypoints() -> None:
    assert_equal(with_keypoints())


def test_pasted_masks_are_detectron2s() -> None:
    assert_equal(detector(), paste_masks=True)


def test_stagewise_model_is_joined_with_its_rpn() -> None:
    proposing, detecting = detector(), detector()
    torch.manual_seed(7)
    for parameter in proposing.parameters():  # another network altogether
        parameter.data += 0.02 * torch.randn_like(parameter)
    proposing.pixel_mean += 3
    detecting.proposal_generator = None
    assert_equal(StageWiseRCNN(proposing, detecting))


@pytest.mark.parametrize("layer", ["ROIPool", "ROIWarpMax", "ROIAlignV2"])
def test_roi_layers_are_traced(layer: str) -> None:
    cfg = narrow_config("fpn", depth=18)
    cfg.roi_heads.box_pooler.pooler_type = layer
    model = build(cfg).eval()
    with torch.no_grad():
        traced = torch.jit.trace(DetectorGraph(model), (image(64, 64),), check_trace=False)
        for height, width in SIZES:
            frame = image(height, width)
            assert_same(model_outputs(model, frame), traced(frame))


def test_numbers_of_detections() -> None:
    cfg = narrow_config("fpn", depth=18)
    frame = image(75, 100)
    for threshold, most, count in ((2.0, 100, 0), (0.0, 1, 1), (0.0, 7, 7), (0.0, -1, None)):
        predictor = cfg.roi_heads.box_predictor
        predictor.test_score_thresh, predictor.test_topk_per_image = threshold, most
        model = build(cfg).eval()
        expected = model_outputs(model, frame)
        assert len(expected[0]) == count or (count is None and len(expected[0]) > 7)
        with torch.no_grad():
            assert_same(expected, DetectorGraph(model)(frame))


def test_boxes_and_scores_that_are_not_finite_are_left_out() -> None:
    model = detector()
    with torch.no_grad():
        model.roi_heads.box_predictor.bbox_pred.weight[4:8] = float("inf")
    frame = image(64, 96)
    with torch.no_grad():
        assert_same(model_outputs(model, frame), DetectorGraph(model)(frame))


def test_suppression_by_hand() -> None:
    box = [0.0, 0.0, 10.0, 10.0]
    boxes = torch.tensor([box, box, [0.0, 0.0, 10.0, 9.0], [20.0, 0.0, 30.0, 10.0]])
    scores, groups = torch.tensor([0.5, 0.9, 0.8, 0.1]), torch.tensor([0, 0, 1, 0])
    assert suppress_by_group(boxes, scores, groups, 0.5, -1).tolist() == [1, 2, 3]
    assert suppress_by_group(boxes, scores, groups, 0.5, 2).tolist() == [1, 2]
    assert suppress_by_group(boxes[:0], scores[:0], groups[:0], 0.5, 2).tolist() == []


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(
    sides=st.lists(st.tuples(st.floats(0, 60), st.floats(0, 60)), max_size=4),
    seed=st.integers(0, 2**16),
)
def test_keypoints_are_detectron2s(sides: list[tuple[float, float]], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.tensor([[5.0, 3.5, 5 + w, 3.5 + h] for w, h in sides]).reshape(-1, 4)
    maps = torch.randn(len(sides), 3, 14, 14, generator=generator)
    expected = heatmaps_to_keypoints(maps, boxes)[:, :, [0, 1, 3]]
    for decode in (decode_keypoints, map_keypoints):
        torch.testing.assert_close(decode(maps, boxes), expected, rtol=1e-4, atol=1e-4)


class OtherHeads(torch.nn.Module):
    """RoI heads of nobody's."""


def test_unknown_parts_are_named() -> None:
    check_model(with_keypoints())
    model: Any = detector()
    model.roi_heads = OtherHeads()
    with pytest.raises(ConfigError, match=r"model\.roi_heads is a OtherHeads"):
        check_model(model)
    model = detector()
    model.proposal_generator = None
    with pytest.raises(ConfigError, match=r"model\.proposal_generator is a NoneType"):
        check_model(model)
    with pytest.raises(ConfigError, match="model is a Linear"):
        check_model(torch.nn.Linear(1, 1))
