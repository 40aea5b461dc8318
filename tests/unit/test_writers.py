"""Writers of a training: CSV, and trackers in their offline or local modes."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.utils.events import EventStorage

from mask_rcnn_repro.config import config_hash, default_output_dir, load_config
from mask_rcnn_repro.engine.run import Run
from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.registration import register
from mask_rcnn_tools.train.writers import build_writers, final_metrics, run_name, run_tags

from .tables_helpers import QUICKSTART, record

TAGS = [QUICKSTART, "tiny", "seed0"]
NAME = f"{QUICKSTART}@tiny/seed0"
RESULTS = {"segm": {"AP": 33.5, "AP75": None, "per_class": {"mug": 30.0, "jar": 37.0}}}
ROWS = [("segm", "AP", 33.5), ("segm", "AP (mug)", 30.0), ("segm", "AP (jar)", 37.0)]


@pytest.fixture(scope="module", autouse=True)
def registered():
    register()


def run_with(folder, *writers):
    cfg = load_config(QUICKSTART, "tiny", [f"train.writers=[{', '.join(writers)}]"])
    folder.mkdir(parents=True, exist_ok=True)
    return Run(QUICKSTART, cfg, folder, torch.device("cpu"))


def tracker(name):
    """The library of a tracker. The three are not in `make setup`: they bring 91 packages."""
    return pytest.importorskip(name, reason=f"{name} is not installed: run `make test-trackers`")


def write(writer, start, stop, every=2):
    """What a training from one iteration to another has the writer write; `a` is its square."""
    with EventStorage(start) as storage:
        for storage.iter in range(start, stop):
            storage.put_scalar("a", float(storage.iter**2), smoothing_hint=False)
            if storage.iter % 4 == 3:
                storage.put_scalar("segm/AR@100", storage.iter / 2, smoothing_hint=False)
            if storage.iter % every == every - 1:
                writer.write()
        writer.write()
    writer.close()


def finished(writer, folder):
    pictures = [folder / "drawings" / f"{name}.png" for name in ("1", "2")]
    for gray, picture in enumerate(pictures):
        picture.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(picture), np.full((4, 6, 3), gray, np.uint8))
    writer.finish(record(metrics=RESULTS), pictures)


def test_names_and_tags(tmp_path):
    run = run_with(tmp_path / "seed0", "csv")
    assert (run_name(run), run_tags(run)) == (NAME, TAGS)
    run.cfg.paper = {"table": "2a", "row": "x" * 80}
    run.cfg.train.profile = "paper"
    assert run_name(run) == f"{QUICKSTART}/seed0"
    assert run_tags(run) == [QUICKSTART, "paper", "seed0", "table 2a", "x" * 64]
    assert final_metrics(record(metrics=RESULTS)) == ROWS


def read(file):
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_csv_of_a_resumed_run_is_that_of_one_run(tmp_path):
    whole, resumed = (run_with(tmp_path / name, "csv") for name in ("whole", "resumed"))
    (writer,) = build_writers(whole)
    write(writer, 0, 12)
    finished(writer, whole.folder)
    rows = read(whole.folder / "metrics.csv")
    assert [int(row["iteration"]) for row in rows] == [1, 3, 5, 7, 9, 11]
    assert [float(row["a"]) for row in rows] == [1.0, 9.0, 25.0, 49.0, 81.0, 121.0]
    assert [row["segm/AR@100"] for row in rows] == ["", "1.5", "", "3.5", "", "5.5"]
    assert [tuple(row.values()) for row in read(whole.folder / "results.csv")] == [
        (task, name, str(value)) for task, name, value in ROWS
    ]

    (writer,) = build_writers(resumed)
    write(writer, 0, 8)  # killed; its last checkpoint is of iteration 4
    (writer,) = build_writers(resumed)
    write(writer, 4, 12)
    assert read(resumed.folder / "metrics.csv") == rows


def test_a_tracker_that_does_not_start_is_an_error(tmp_path, monkeypatch):
    run = run_with(tmp_path / "seed0", "csv")
    (run.folder / "metrics.csv").write_text("no,csv\nof,ours\n")
    with pytest.raises(ConfigError, match="csv could not be started"):
        build_writers(run)


def test_wandb_offline(tmp_path, monkeypatch):
    wandb = tracker("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = run_with(tmp_path / "seed0", "wandb")
    for start, stop in ((0, 6), (4, 12)):
        (writer,) = build_writers(run)
        write(writer, start, stop)
        board = writer._board
        assert (board.name, board.tags) == (NAME, tuple(TAGS))
        assert board.config["train"]["writers"] == ["wandb"]
        if stop == 6:
            first = board.id
            board.finish()
    assert board.id == first
    assert board.summary["a"] == 121.0
    finished(writer, run.folder)
    assert wandb.run is None
    (last,) = [p for p in run.folder.glob("wandb/offline-run-*") if list(p.glob("files/media/*"))]
    assert len(list(last.glob("files/media/images/*.png"))) == 2
    (table,) = last.glob("files/media/table/*.json")
    assert json.loads(table.read_text())["data"] == [list(row) for row in ROWS]


def test_mlflow_files(tmp_path, monkeypatch):
    mlflow = tracker("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    run = run_with(tmp_path / "seed0", "mlflow")
    for start, stop in ((0, 6), (4, 12)):
        (writer,) = build_writers(run)
        write(writer, start, stop)
    finished(writer, run.folder)
    client = mlflow.MlflowClient()
    (experiment,) = [e for e in client.search_experiments() if e.name == "mask-rcnn-repro"]
    (there,) = client.search_runs([experiment.experiment_id])
    assert (there.info.run_name, there.info.status) == (NAME, "FINISHED")
    assert there.data.tags["tags"] == ", ".join(TAGS)
    assert there.data.params["train.seed"] == "0"
    assert len(there.data.params) > 100
    steps = {m.step: m.value for m in client.get_metric_history(there.info.run_id, "a")}
    assert steps == {k: float(k**2) for k in (1, 3, 5, 7, 9, 11)}
    assert there.data.metrics["segm/AR_100"] == 5.5
    folder = Path(client.download_artifacts(there.info.run_id, ""))
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert found == {"config.yaml", "results.json", "drawings/1.png", "drawings/2.png"}
    assert json.loads((folder / "results.json").read_text())["data"] == [list(r) for r in ROWS]


def test_trackio_here(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # which it reads when imported
    trackio = tracker("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    one, other = (run_with(tmp_path / name / "seed0", "trackio") for name in ("one", "other"))
    for run, start, stop in ((one, 0, 6), (other, 0, 2), (one, 4, 12)):
        (writer,) = build_writers(run)
        write(writer, start, stop)
        if stop == 12:
            finished(writer, run.folder)
        else:
            writer._board.finish()
    runs = list(trackio.Api().runs("mask-rcnn-repro"))
    assert [run.name for run in runs] == [NAME, f"{NAME} (2)"]
    logs = [SQLiteStorage.get_logs(run.project, run.name, run_id=run.id) for run in runs]
    assert {row["step"]: row["a"] for row in logs[1]} == {1: 1.0}
    steps = {row["step"]: row["a"] for row in logs[0] if "a" in row}
    assert steps == {k: float(k**2) for k in (1, 3, 5, 7, 9, 11)}
    config = runs[0].config
    assert (config["tags"], config["train.seed"]) == (", ".join(TAGS), 0)
    last = logs[0][-1]
    assert [tuple(row.values()) for row in last["results"]["_value"]] == ROWS
    assert {name for name in last if name.startswith("drawings/")} == {"drawings/1", "drawings/2"}
    assert len(list((tmp_path / "trackio").rglob("*.png"))) == 2


def test_writers_do_not_change_what_a_run_is(tmp_path):
    one, other = (run_with(tmp_path, *names) for names in (["csv"], ["wandb", "tensorboard"]))
    assert config_hash(one.cfg) == config_hash(other.cfg)
    folders = [
        default_output_dir(QUICKSTART, "tiny", 0, keys) for keys in ([], ["train.writers=[]"])
    ]
    assert folders[0] == folders[1]
