"""A stage-wise model joined with its RPN detects, on images alone, what its stages detect."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate

from mask_rcnn_repro import build_predictor, get_config
from mask_rcnn_repro.engine.run import Inputs
from mask_rcnn_repro.errors import CheckpointError
from mask_rcnn_repro.modeling import SharedFeatureRCNN, StageWiseRCNN

from .run_helpers import launch
from .stage_helpers import RPN_RUN, SHORT

CONFIG = "table2a/r50_fpn"
# an untrained model's scores are near 1 / 8 for every box: some of them must pass
ROW = (*SHORT, "model.roi_heads.box_predictor.test_score_thresh=0.1")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("predictor")
    launch(folder, *ROW, "train.output_dir=run", config=CONFIG).succeeded()
    return folder


def images_of(cfg, count=4):
    """Test images as the loader gives them, with stored proposals where the config has files."""
    cfg.dataloader.test.num_workers = 0
    loader = iter(instantiate(cfg.dataloader.test))
    return [next(loader)[0] for _ in range(count)]


def test_it_detects_what_the_stages_detect(trained, monkeypatch):
    monkeypatch.chdir(trained)
    cfg = get_config(CONFIG, "tiny", ROW)
    joined = build_predictor(cfg, "run/model_final.pth", device="cpu")
    assert isinstance(joined, StageWiseRCNN)
    assert not joined.training
    stored = Inputs(test_proposals=(RPN_RUN / "proposals" / "embedded_tiny_val",))
    inputs = images_of(stored.fill(cfg))
    alone = [{k: v for k, v in x.items() if k != "proposals"} for x in inputs]
    detections = 0
    for x, y in zip(inputs, alone, strict=True):  # one by one: padding in a batch changes features
        (proposals,) = joined.propose([y])
        assert len(proposals) == len(x["proposals"]) == 62
        torch.testing.assert_close(
            proposals.proposal_boxes.tensor,
            x["proposals"].proposal_boxes.tensor,
            rtol=0,
            atol=1e-3,
        )
        with torch.no_grad():
            expected, found = joined.detector([x])[0]["instances"], joined([y])[0]["instances"]
        detections += len(expected)
        assert torch.equal(expected.pred_classes, found.pred_classes)
        for name in ("pred_boxes", "scores"):
            pair = [getattr(i, name) for i in (expected, found)]
            pair = [getattr(value, "tensor", value) for value in pair]
            torch.testing.assert_close(*pair, rtol=0, atol=1e-2)
        assert expected.pred_masks.shape == found.pred_masks.shape
    assert detections > 0


def test_given_boxes_need_no_proposals(trained, monkeypatch):
    monkeypatch.chdir(trained)
    joined = build_predictor(get_config(CONFIG, "tiny", ROW), "run/model_final.pth", device="cpu")
    monkeypatch.setattr(joined, "propose", None)
    (image,) = images_of(get_config(CONFIG, "tiny", [*ROW, "train.proposals=null"]), 1)
    with torch.no_grad():
        boxes = joined.detector.inference(
            [{**image, "proposals": StageWiseRCNN.propose(joined, [image])[0]}],
            do_postprocess=False,
        )[0]
        again = joined.inference([image], [boxes], do_postprocess=False)[0]
    assert torch.equal(again.pred_boxes.tensor, boxes.pred_boxes.tensor)
    assert again.pred_masks.shape[0] == len(boxes)


def test_joint_and_shared_models_stay_what_they_are(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    keys = [*ROW, "train.proposals=null"]
    launch(tmp_path, *keys, "train.output_dir=joint", config=CONFIG).succeeded()
    model = build_predictor(get_config(CONFIG, "tiny", keys), "joint/model_final.pth", device="cpu")
    assert type(model).__name__ == "GeneralizedRCNN"
    assert not issubclass(SharedFeatureRCNN, StageWiseRCNN)


def test_a_missing_rpn_is_named(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = get_config(CONFIG, "tiny", ROW)
    weights = trained / "run" / "model_final.pth"
    with pytest.raises(CheckpointError, match=r"rpn/r50_fpn, .* no weights"):
        build_predictor(cfg, weights, device="cpu")
    rpn = trained / RPN_RUN / "model_final.pth"
    assert isinstance(build_predictor(cfg, weights, rpn, device="cpu"), StageWiseRCNN)
