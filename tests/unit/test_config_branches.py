"""One key omits the mask or keypoint branch; half a branch and other impossible models are refused.

The advice of the data check is followed as it is printed.
"""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.utils.events import EventStorage
from PIL import Image

from mask_rcnn_repro.config import load_config
from mask_rcnn_repro.config.from_data import fit_to_data
from mask_rcnn_repro.engine.builders import build_model, build_train_data
from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.registration import register
from mask_rcnn_tools.check_data.check import Options, check
from mask_rcnn_tools.check_data.findings import Report
from mask_rcnn_tools.check_data.sources import sources_of_config

QUICKSTART, KEYPOINTS = "quickstart/mask_rcnn_r18_fpn", "table5/keypoint_only"
JOINT = ["train.proposals=null", "train.init_checkpoint="]
HEADS, MAPPER = "model.roi_heads", "dataloader.train.mapper"


@pytest.fixture
def boxes_only(tmp_path: Path) -> list[str]:
    """Overrides for a data set with boxes alone."""
    names = []
    for split in ("train", "test"):
        picture = np.full((96, 128, 3), 190, np.uint8)
        Image.fromarray(picture).save(tmp_path / "1.png")
        box = {"bbox": [8, 10, 36, 40], "area": 1440, "iscrowd": 0}
        content = {
            "images": [{"id": 1, "file_name": "1.png", "width": 128, "height": 96}],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 1, **box}],
            "categories": [{"id": 1, "name": "a"}],
        }
        file = tmp_path / f"{split}.json"
        file.write_text(json.dumps(content))
        values = {"names": f"{tmp_path.name}_{split}", "json": file, "image_root": tmp_path}
        names += [f"dataloader.{split}.dataset.{key}={value}" for key, value in values.items()]
    return names


@pytest.mark.parametrize(
    ("config", "kind"), [(QUICKSTART, "no-masks"), (KEYPOINTS, "no-keypoints")]
)
def test_the_advice_of_the_data_check_works(boxes_only: list[str], config: str, kind: str) -> None:
    register()
    keys = [*JOINT, *boxes_only]
    report = Report("test")
    check(sources_of_config(config, "tiny", keys, report), report, Options(threads=1))
    advice = next(f.fix for f in report.findings if f.kind == kind)
    keys += [key.rstrip(".") for key in re.findall(r"\S+=\S+", advice)]
    cfg = fit_to_data(load_config(config, "tiny", keys), keys)
    cfg.dataloader.train.num_workers = 0
    model = build_model(cfg, torch.device("cpu"))
    with EventStorage():
        losses = model(next(iter(build_train_data(cfg, 0))))
    assert {"loss_cls", "loss_box_reg"} <= set(losses)
    assert not {"loss_mask", "loss_keypoint"} & set(losses)


def test_the_parts_of_a_branch_follow_its_head(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        cfg = load_config(QUICKSTART, "tiny", [f"{HEADS}.mask_head=null"])
    assert cfg.model.roi_heads.mask_pooler is cfg.model.roi_heads.mask_in_features is None
    assert cfg.dataloader.train.mapper.use_instance_mask is False
    assert f"{MAPPER}.use_instance_mask=false" in caplog.text
    deleted = load_config(QUICKSTART, "tiny", [f"~{HEADS}.mask_head"])
    assert deleted.model.roi_heads.get("mask_in_features") is None

    keys = [f"{HEADS}.mask_head=null", f"{MAPPER}.use_instance_mask=true"]
    kept = load_config(QUICKSTART, "tiny", keys)
    assert kept.dataloader.train.mapper.use_instance_mask is True
    boxes_of_masks = [f"{HEADS}.mask_head=null", f"{MAPPER}.recompute_boxes=true"]
    assert load_config(QUICKSTART, "tiny", boxes_of_masks).dataloader.train.mapper.use_instance_mask

    cfg = load_config(KEYPOINTS, "tiny", [*JOINT, f"{HEADS}.keypoint_head=null"])
    assert cfg.model.roi_heads.keypoint_pooler is cfg.model.roi_heads.keypoint_in_features is None
    assert cfg.dataloader.train.mapper.use_keypoint is False


def test_a_config_without_the_override_is_unchanged(caplog: pytest.LogCaptureFixture) -> None:
    for config in (QUICKSTART, "table3/faster_rcnn_roi_align"):
        load_config(config, "tiny", ["train.seed=1"])
    assert "follows" not in caplog.text


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            [f"{HEADS}.mask_head=null", f"{HEADS}.mask_in_features=[p2]"],
            [f"set {HEADS}.mask_in_features=null and {HEADS}.mask_pooler=null"],
        ),
        ([f"{HEADS}.mask_in_features=null"], ["would never run", f"{HEADS}.mask_head=null"]),
        ([f"{MAPPER}.use_instance_mask=false"], [f"{HEADS}.mask_head=null"]),
        (
            ["model.input_format=L", "model.pixel_mean=[110]", "model.pixel_std=[57]"]
            + [f"dataloader.{split}.mapper.image_format=L" for split in ("train", "test")],
            ["set model.backbone.bottom_up.in_channels=1"],
        ),
        (["model.pixel_mean=[110]"], ["pixel_mean has 1 value", "give 3"]),
        (["model.pixel_std=[1, 1, 1, 1]"], ["pixel_std has 4 value", "give 3"]),
        (["model.input_format=null", "model.pixel_mean=[1]"], ["differ in length: [1, 3]"]),
        (["dataloader.test.dataset.names="], ["dataloader.test.dataset.names= is empty"]),
        (["dataloader.train.dataset.names=[]"], ["dataloader.train.dataset.names=[] is empty"]),
        (['dataloader.train.dataset.names=[a, ""]'], ["dataloader.train.dataset.names"]),
        (["dataloader.train.dataset.json="], ["dataloader.train.dataset.json= is empty"]),
    ],
)
def test_impossible_models_say_what_to_set(overrides: list[str], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(QUICKSTART, "tiny", overrides)
    assert all(word in str(caught.value) for word in words), caught.value


def test_one_channel_trains(boxes_only: list[str]) -> None:
    register()
    keys: list[Any] = [*JOINT, *boxes_only, f"{HEADS}.mask_head=null", "model.input_format=L"]
    keys += ["model.pixel_mean=[110]", "model.pixel_std=[57]"]
    keys += [f"dataloader.{split}.mapper.image_format=L" for split in ("train", "test")]
    keys += ["model.backbone.bottom_up.in_channels=1"]
    cfg = fit_to_data(load_config(QUICKSTART, "tiny", keys), keys)
    cfg.dataloader.train.num_workers = 0
    model = build_model(cfg, torch.device("cpu"))
    with EventStorage():
        assert "loss_cls" in model(next(iter(build_train_data(cfg, 0))))
