"""What is refused before the first step, and what cannot cost the record after the last."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from mask_rcnn_repro.config import load_config
from mask_rcnn_repro.engine.builders import build_model
from mask_rcnn_tools.train.main import EXTENSIONS

from .run_helpers import QUICKSTART, launch


def test_the_record_is_written_before_anything_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before: list[bool] = []

    def draw(name: str, results: Path, drawings: Path, count: int) -> Any:
        before.append((drawings.parent / "record.json").is_file())
        raise ValueError("an image that cannot be drawn")

    extensions = dataclasses.replace(EXTENSIONS, draw=draw)
    monkeypatch.setattr("mask_rcnn_tools.train.main.EXTENSIONS", extensions)
    keys = ["train.max_iter=1", "train.draw=1"]
    launch(tmp_path, *keys, "train.output_dir=run").succeeded()
    weights = f"train.init_checkpoint={tmp_path / 'run' / 'model_final.pth'}"
    launch(tmp_path, *keys, weights, "--eval-only", "train.output_dir=again").succeeded()
    assert before == [True, True]
    assert all((tmp_path / run / "record.json").is_file() for run in ("run", "again"))


def test_weights_of_other_classes_are_refused_before_the_first_step(tmp_path: Path) -> None:
    cfg = load_config(QUICKSTART, "tiny", ["model.roi_heads.num_classes=1"])
    model = build_model(cfg, torch.device("cpu"))
    torch.save({"model": model.state_dict()}, tmp_path / "one.pth")
    keys = [f"train.init_checkpoint={tmp_path / 'one.pth'}", "train.max_iter=1", "train.draw=0"]
    message = launch(tmp_path, *keys, "train.output_dir=run").failed_plainly()
    assert "roi_heads.box_predictor" in message and "train.init_classes='{}'" in message
    assert not list((tmp_path / "run").glob("*.pth"))
    launch(tmp_path, *keys, "train.strict_init=false", "train.output_dir=relaxed").succeeded()
