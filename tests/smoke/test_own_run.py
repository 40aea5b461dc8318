"""A run's `config.yaml` or directory finds that run, in every command and from any directory."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import pytest

from mask_rcnn_repro.config import load_config, save_config
from mask_rcnn_repro.data.registration import coco_parts, register_all_datasets
from mask_rcnn_repro.errors import DataError
from mask_rcnn_repro.records.record import load_record
from mask_rcnn_tools.analyze.cli import parse_args as parse_analysis
from mask_rcnn_tools.analyze.main import run as analyze
from mask_rcnn_tools.common.trained_run import (
    find_checkpoint,
    given_id,
    load_given_config,
    note_other_config,
)
from mask_rcnn_tools.predict.cli import parse_args as parse_prediction
from mask_rcnn_tools.predict.main import run as predict

from .run_helpers import ITERATIONS, RUN, CommandResult, _undone, launch, results

ID = "quickstart/mask_rcnn_r18_fpn"
QUICK = ("train.draw=0", "train.max_iter=1")


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the trained run in its default directory."""
    folder = tmp_path / "there" / RUN
    shutil.copytree(trained, folder)
    return folder


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, another than that of the run."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def train_net(folder: Path, config: Path, *argv: str) -> CommandResult:
    return launch(folder, "--profile", "paper", *argv, config=config)


def arguments(config: Path, *overrides: str) -> argparse.Namespace:
    given = {"profile": "paper", "seed": None, "checkpoint": None}
    return argparse.Namespace(config_file=str(config), overrides=list(overrides), **given)


def test_evaluating_by_its_config(run: Path, elsewhere: Path) -> None:
    before = (run / "record.json").read_bytes()
    train_net(elsewhere, run / "config.yaml", "--eval-only", "train.draw=0").succeeded()
    (folder,) = (run / "eval").iterdir()
    record = load_record(folder / "record.json")
    assert (record.mode, record.config.id, record.config.profile) == ("eval", ID, "tiny")
    assert record.metrics == load_record(run / "record.json").metrics
    assert results(folder) == results(run)
    assert (run / "record.json").read_bytes() == before
    assert list(elsewhere.iterdir()) == []  # all is beside the run


@pytest.mark.slow
def test_evaluations_with_other_settings_are_apart(run: Path, elsewhere: Path) -> None:
    score = "model.roi_heads.box_predictor.test_score_thresh=0.9"
    for more in ([], [score], ["train.init_checkpoint=model_0.pth"]):
        shutil.copy(run / "model_final.pth", elsewhere / "model_0.pth")
        train_net(elsewhere, run, "--eval-only", *more).succeeded()
    names = sorted(folder.name.rpartition("-")[0] for folder in (run / "eval").iterdir())
    assert names == ["", "last", "model_0"]


def test_resuming_by_its_directory(run: Path, elsewhere: Path) -> None:
    assert "complete already" in train_net(elsewhere, run, "--resume").succeeded()
    message = train_net(elsewhere, run).failed_plainly()
    assert "--resume" in message and "train.output_dir" in message
    assert list(elsewhere.iterdir()) == []


def test_other_settings_go_beside_it_and_say_how_to_continue(run: Path, elsewhere: Path) -> None:
    out = train_net(elsewhere, run, "--resume", *QUICK).succeeded()
    (new,) = (folder for folder in run.parent.iterdir() if folder != run)
    assert f"no checkpoint in {new} and starts at iteration 0" in out
    assert f"train.max_iter {ITERATIONS} there, 1 here" in out.replace("\n", " ")
    assert f"--config-file {run} --resume" in out
    assert load_record(new / "record.json").config.id == ID
    assert list(elsewhere.iterdir()) == []


def test_every_command_takes_its_last_checkpoint(run: Path, elsewhere: Path) -> None:
    for config in (run, run / "config.yaml"):
        for overrides in ([], ["train.tta.enabled=true"], ["train.draw=3"]):
            args = arguments(config, *overrides)
            cfg = load_given_config(args)
            assert find_checkpoint(args, cfg) == str(run / "model_final.pth")
            assert given_id(args) == ID
            assert Path(cfg.train.output_root) == run.parents[2]
    (run / "last_checkpoint").unlink()  # a copy of weights and config alone
    args = arguments(run)
    assert find_checkpoint(args, load_given_config(args)) == str(run / "model_final.pth")


def test_a_run_in_a_directory_that_was_given_and_moved(run: Path, elsewhere: Path) -> None:
    cfg = load_config(run / "config.yaml")
    cfg.train.output_dir = str(elsewhere / "old")
    moved = elsewhere / "moved"
    shutil.copytree(run, moved)
    save_config(cfg, moved / "config.yaml")
    args = arguments(moved)
    assert find_checkpoint(args, load_given_config(args)) == str(moved / "model_final.pth")
    assert given_id(args) == ID  # by its record
    other = arguments(moved, f"train.output_dir={run}")
    assert find_checkpoint(other, load_given_config(other)) == str(run / "model_final.pth")


def test_a_saved_config_without_a_run_is_a_config_as_before(run: Path, elsewhere: Path) -> None:
    file = elsewhere / "kept" / "config.yaml"
    file.parent.mkdir()
    shutil.copy(run / "config.yaml", file)
    args = arguments(file)
    load_given_config(args)
    assert given_id(args) == "kept/config" and not hasattr(args, "run_folder")


def test_predictions_are_analyzed(
    run: Path, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    register_all_datasets()
    parts = coco_parts("embedded_tiny_val")
    assert parts is not None
    images = sorted(Path(parts[0].image_root).iterdir())
    few = [str(path) for path in images[:3]]
    words = ["--config-file", str(run), "--no-pictures", "--input", *few]
    with _undone(elsewhere):
        assert predict(parse_prediction(words)) == 0
    assert f"{ID}, {run / 'model_final.pth'}" in capsys.readouterr().out
    file = elsewhere / "predictions" / "predictions.json"
    for given in (file, file.parent):
        words = ["--config-file", str(run), "--predictions", str(given), "--parts", "errors"]
        analyze(parse_analysis([*words, "--images", "0"]))
        title = f"predictions.json on embedded_tiny_val, 3 of {len(images)} images"
        assert title in capsys.readouterr().out
    content = json.loads((file.parent / "analysis" / "analysis.json").read_text())
    assert content["images"] == 3
    counted = json.loads(file.read_text())
    counted["info"]["image_ids"] = "counted from 1"
    file.write_text(json.dumps(counted))
    with pytest.raises(DataError, match="numbers its images from 1"):
        analyze(parse_analysis(words))


def test_analyzing_by_its_config(
    run: Path, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--config-file", str(run / "config.yaml"), "--parts", "errors", "--images", "0"]
    analyze(parse_analysis(words))
    assert "Error types (TIDE)" in capsys.readouterr().out
    assert (run / "analysis" / "analysis.json").is_file()


@pytest.mark.parametrize(
    ("override", "noted"),
    [
        ("model.roi_heads.mask_pooler.pooler_type=ROIPool", "ROIPool here"),
        ("train.seed=3", None),
        ("train.max_iter=7", None),
        ("model.roi_heads.box_predictor.test_score_thresh=0.3", None),
    ],
)
def test_a_checkpoint_of_another_row_is_noted(
    run: Path, caplog: pytest.LogCaptureFixture, override: str, noted: str | None
) -> None:
    note_other_config(run / "model_final.pth", load_config(ID, "tiny", [override]))
    if noted is None:
        assert caplog.text == ""
    else:
        assert noted in caplog.text
        assert f"{run / 'config.yaml'} ({ID})" in caplog.text


def test_an_evaluation_notes_it(run: Path, elsewhere: Path) -> None:
    row = ["model.roi_heads.mask_pooler.pooler_type=ROIPool", "train.draw=0"]
    weights = f"train.init_checkpoint={run / 'model_final.pth'}"
    out = launch(elsewhere, "--eval-only", *row, weights).succeeded()
    assert f"was written by another config, {run / 'config.yaml'} ({ID})" in out
