"""Test-time augmentation by config and flag: sizes, profiles, hashes, images as they are."""

from __future__ import annotations

import pytest
import torch
from omegaconf import OmegaConf

from mask_rcnn_repro.config import config_hash, get_config
from mask_rcnn_repro.config.profiles import PROFILES
from mask_rcnn_repro.config.schema import train_defaults
from mask_rcnn_repro.distillation.run import transforms_of
from mask_rcnn_repro.engine import evaluate
from mask_rcnn_repro.engine.tta import tta_sizes, with_original_images, with_tta
from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_tools.train.cli import parse_args

from .test_model_tta import PixelDetector

ON = "train.tta.enabled=true"
PAPER = [400, 500, 600, 700, 800, 900, 1000, 1100, 1200]
ROW = "table2a/r50_fpn"


@pytest.mark.parametrize(
    ("config", "profile", "sizes"),
    [
        (ROW, "paper", PAPER),
        (ROW, "mini", [160, 200, 240, 280, 320, 360, 400, 440, 480]),  # 320 px
        (ROW, "tiny", [32, 40, 48, 56, 64, 72, 80, 88, 96]),  # 64 px
        ("quickstart/mask_rcnn_r18_fpn", "paper", [64, 80, 96, 112, 128, 144, 160, 176, 192]),
        ("table5/keypoint_only", "paper", PAPER),  # trained at 640 to 800, tested at 800
    ],
)
def test_sizes_follow_the_test_images(config, profile, sizes):
    assert tta_sizes(get_config(config, profile)) == sizes


def test_given_sizes_are_taken():
    cfg = get_config(ROW, "tiny", ["train.tta.sizes=[30, 50]"])
    assert tta_sizes(cfg) == [30, 50]  # the command line comes after the profile
    cfg = get_config(ROW)
    cfg.train.tta.sizes = [400, 800]  # a file's
    assert tta_sizes(PROFILES["tiny"](cfg)) == [32, 64]


def test_sizes_of_images_that_are_not_resized():
    cfg = get_config(ROW)
    cfg.dataloader.test.mapper.augmentations = []
    assert tta_sizes(cfg) == PAPER
    cfg = get_config(ROW)
    cfg.dataloader.test.mapper.augmentations[0].short_edge_length = 400  # Detectron2 takes both
    assert tta_sizes(cfg)[::4] == [200, 400, 600]


@pytest.mark.parametrize("value", ["[]", "[0]", "[1.5]", "400", "[400, big]"])
def test_sizes_that_cannot_be(value):
    with pytest.raises(ConfigError, match=r"train\.tta\.sizes"):
        get_config(ROW, "paper", [f"train.tta.sizes={value}"])


def test_hashes_change_only_where_it_is_used():
    assert config_hash(get_config("quickstart/mask_rcnn_r18_fpn")) == "ff1e7a7c10b8"  # as recorded
    plain, augmented = (config_hash(get_config(ROW, "mini", keys)) for keys in ([], [ON]))
    assert plain != augmented
    assert train_defaults()["tta"]["enabled"] is False


@pytest.mark.parametrize(
    ("row", "keys"), [(ROW, ["train.proposals=null"]), ("section4_4/r101_fpn_shared", [])]
)
def test_averaging_without_stored_proposals_is_refused_before_training(row, keys):
    average = "train.tta.average_boxes=true"
    assert get_config(ROW, "tiny", [ON, average]).train.tta.average_boxes
    with pytest.raises(ConfigError, match="set it to false"):
        get_config(row, "tiny", [ON, average, *keys])


def test_the_flag_is_an_override():
    argv = ["--config-file", "x.py", "--eval-only", "--tta", "train.seed=1"]
    assert parse_args(argv).overrides == ["train.seed=1", ON]
    assert parse_args(["--config-file", "x.py", "--eval-only"]).overrides == []


def test_images_come_as_they_are():
    cfg = get_config(ROW, "tiny", [ON])
    before = OmegaConf.to_container(cfg.dataloader, resolve=False)
    assert before["test"]["mapper"]["precomputed_proposal_topk"]
    changed = with_original_images(cfg)
    mapper = changed.dataloader.test.mapper
    assert list(mapper.augmentations) == []
    assert mapper.precomputed_proposal_topk is None and mapper.get("proposal_files") is None
    assert OmegaConf.to_container(cfg.dataloader, resolve=False) == before
    assert changed.dataloader.train == cfg.dataloader.train
    cfg.train.tta.average_boxes = True  # on them
    mapper = with_original_images(cfg).dataloader.test.mapper
    assert list(mapper.augmentations) == [] and mapper.precomputed_proposal_topk


def test_the_section_is_followed():
    keys = ["sizes=[32, 64]", "flip=false", "max_size=77", "views_per_batch=5"]
    keys += ["vote_iou=0.8"]
    cfg = get_config(ROW, "tiny", [f"train.tta.{key}" for key in keys])
    cfg.dataloader.train.mapper.keypoint_hflip_indices = [2, 1, 0]
    tta = with_tta(cfg, PixelDetector())
    assert (tta.sizes, tta.flip, tta.max_size, tta.views_per_batch) == ([32, 64], False, 77, 5)
    assert tta.flip_indices == [2, 1, 0]
    assert tta.vote_iou == 0.8
    (found,) = tta.inference([{"image": torch.full((3, 40, 60), 255, dtype=torch.uint8)}])
    assert len(found) == 1 and found.image_size == (40, 60)


def test_an_evaluation_renders_views_ahead(monkeypatch, tmp_path):
    calls = []

    def keep(model, loader, evaluator, **keys):
        calls.append((model, keys["read"], keys["at_once"]))
        return {}, {}

    monkeypatch.setattr(evaluate, "evaluate", keep)
    monkeypatch.setattr(evaluate, "instantiate", lambda node: None)
    monkeypatch.setattr(evaluate, "join_rpn", lambda cfg, model, device: model)
    cfg = get_config(ROW, "tiny", [ON, "train.optimize_inference=false"])
    model = PixelDetector(keypoint_on=False)
    for final in (True, False):
        evaluate.evaluate_model(cfg, model, torch.device("cpu"), tmp_path, final)
    keys = [ON, "train.optimize_inference=false", "train.tta.average_boxes=true"]
    monkeypatch.setattr(evaluate, "join_rpn", None)  # proposals are stored
    model.proposal_generator = None
    evaluate.evaluate_model(
        get_config(ROW, "tiny", keys), model, torch.device("cpu"), tmp_path, True
    )
    assert calls.pop()[0].average_boxes
    (augmented, read, at_once), (plain, plain_read, _) = calls
    assert augmented.model is model and read == augmented.views_ahead and at_once == 0
    assert plain is model and plain_read is iter


def test_generated_annotations_name_how_views_were_merged():
    """Only where it is set: annotations that were made before these keys stay valid."""
    keys = ["train.tta.sizes=[32, 64]", "train.tta.vote_iou=0.9"]
    plain = {"sizes": [32, 64], "flip": True, "max_size": 4000}
    assert transforms_of(get_config(ROW, "tiny", keys[:1])) == plain
    assert transforms_of(get_config(ROW, "tiny", keys)) == {**plain, "vote_iou": 0.9}
    keys[1] = "train.tta.average_boxes=true"
    assert transforms_of(get_config(ROW, "tiny", keys)) == {**plain, "average_boxes": True}
