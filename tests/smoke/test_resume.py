"""Interrupted and resumed training gives, bit for bit, what uninterrupted training gives."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from mask_rcnn_embedded import quickstart as embedded
from mask_rcnn_repro.config import load_config
from mask_rcnn_repro.engine.builders import build_train_data
from mask_rcnn_repro.registration import register

from .run_helpers import (
    ITERATIONS,
    QUICKSTART,
    REPOSITORY,
    assert_same,
    environment,
    iterations,
    launch,
    load,
    results,
)

BREAK_AT = 6  # the iteration whose images are broken: not one after which a checkpoint is due


@pytest.fixture
def data(tmp_path: Path) -> tuple[Path, list[str]]:
    """A private copy of the tiny data's training split, and overrides that train on it."""
    source = embedded.ensure_generated(embedded.TINY_SPEC)
    copy = tmp_path / "data"
    shutil.copytree(source / "train", copy)
    shutil.copy(source / "annotations" / "instances_train.json", copy / "train.json")
    name = f"copy_{abs(hash(str(tmp_path)))}"
    train = "dataloader.train.dataset"
    keys = [
        f"{train}.names={name}",
        f"{train}.json={copy}/train.json",
        f"{train}.image_root={copy}",
    ]
    yield copy, keys
    if name in DatasetCatalog:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def _image_of_iteration(keys: list[str], iteration: int) -> Path:
    """An image that the given iteration is the first to read."""
    register()
    cfg = load_config(QUICKSTART, "tiny", keys)
    earlier: set[str] = set()
    for index, batch in enumerate(build_train_data(cfg, 0)):
        files = [image["file_name"] for image in batch]
        if index == iteration:
            fresh = [file for file in files if file not in earlier]
            assert fresh
            return Path(fresh[0])
        earlier.update(files)
    raise AssertionError


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 1])  # when interrupted; 0 before and after
def test_broken_image_stops_the_run_and_resuming_continues_bit_for_bit(
    data: tuple[Path, list[str]], tmp_path: Path, num_workers: int
) -> None:
    _, keys = data
    keys += ["train.draw=0", "train.checkpointer.period=4"]
    workers = f"dataloader.train.num_workers={num_workers}"
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    launch(tmp_path, *keys, f"train.output_dir={whole}").succeeded()

    image = _image_of_iteration(keys, BREAK_AT)
    content = image.read_bytes()
    image.write_bytes(content[: len(content) // 3])
    outcome = launch(tmp_path, *keys, workers, f"train.output_dir={broken}")
    message = outcome.failed_plainly()
    assert str(image) in message
    assert outcome.out.count("Training stopped, see the error below.") == 1
    assert "Evaluating" not in outcome.out
    assert (broken / "last_checkpoint").read_text() == f"model_{BREAK_AT - 1:07d}.pth"
    saved = load(broken / f"model_{BREAK_AT - 1:07d}.pth")
    assert saved["iteration"] == saved["trainer"]["iteration"] == BREAK_AT - 1
    assert not (broken / "record.json").exists()

    # still broken: nothing new is done, and nothing is lost
    launch(tmp_path, *keys, workers, f"train.output_dir={broken}", "--resume").failed_plainly()
    assert_same(load(broken / f"model_{BREAK_AT - 1:07d}.pth"), saved)

    image.write_bytes(content)
    out = launch(tmp_path, *keys, f"train.output_dir={broken}", "--resume").succeeded()
    assert f"Resuming after {BREAK_AT} iterations" in out
    tensors = assert_same(load(broken / "model_final.pth"), load(whole / "model_final.pth"))
    assert tensors > 400  # weights, and AdamW's two moments and step of each
    assert iterations(broken) == iterations(whole) == list(range(ITERATIONS + 1))
    assert results(broken) == results(whole)


def test_error_in_the_last_iteration_does_not_evaluate(
    data: tuple[Path, list[str]], tmp_path: Path
) -> None:
    _, keys = data
    image = _image_of_iteration(keys, ITERATIONS - 1)
    image.write_bytes(image.read_bytes()[:200])
    outcome = launch(tmp_path, *keys, "train.draw=0", f"train.output_dir={tmp_path / 'run'}")
    outcome.failed_plainly()
    assert "Evaluating" not in outcome.out


def test_broken_test_image_loses_nothing(tmp_path: Path) -> None:
    """The evaluation after the training fails; when fixed, `--resume` does just that."""
    source = embedded.ensure_generated(embedded.TINY_SPEC)
    shutil.copytree(source / "val", tmp_path / "val")
    annotations = source / "annotations" / "instances_val.json"
    image = sorted((tmp_path / "val").glob("*.jpg"))[3]
    content = image.read_bytes()
    image.write_bytes(content[:300])
    test = "dataloader.test.dataset"
    keys = [f"{test}.names=copied_val", f"{test}.json={annotations}"]
    keys += [f"{test}.image_root={tmp_path / 'val'}", "train.draw=0", "train.checkpointer.period=5"]
    run = tmp_path / "run"
    outcome = launch(tmp_path, *keys, "train.max_iter=8", f"train.output_dir={run}")
    assert str(image) in outcome.failed_plainly()
    assert (run / "last_checkpoint").read_text() == "model_final.pth"
    assert sorted(p.name for p in run.glob("*.pth")) == ["model_0000004.pth", "model_final.pth"]
    assert not (run / "record.json").exists()
    image.write_bytes(content)
    out = launch(tmp_path, *keys, "train.max_iter=8", f"train.output_dir={run}", "--resume")
    assert "total_loss" not in out.succeeded() and (run / "record.json").exists()


@pytest.mark.slow
def test_killed_run_resumes_bit_for_bit(tmp_path: Path) -> None:
    total = 30
    keys = [f"train.max_iter={total}", "train.checkpointer.period=2", "train.draw=0"]
    keys += ["train.log_period=3"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    command = [sys.executable, str(REPOSITORY / "train_net.py"), "--config-file", str(QUICKSTART)]
    process = subprocess.Popen(
        [*command, "--profile", "tiny", *keys, f"train.output_dir={killed}"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (killed / "last_checkpoint").exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, err
    assert err == ""  # no warnings of dependencies
    last = (killed / "last_checkpoint").read_text()
    assert re.fullmatch(r"model_\d{7}\.pth", last), "it was faster than the kill"
    load(killed / last)  # whole

    # what a kill while writing leaves behind
    (killed / ".model_0000099.pth.0123456789abcdef.partial").write_bytes(b"half")
    with open(killed / "metrics.json", "a") as file:
        file.write('{"iteration": 3, "total_lo')

    launch(tmp_path, *keys, f"train.output_dir={killed}", "--resume").succeeded()
    launch(tmp_path, *keys, f"train.output_dir={whole}").succeeded()
    assert_same(load(killed / "model_final.pth"), load(whole / "model_final.pth"))
    done = iterations(killed)
    assert done == sorted(set(done)) and set(done) >= set(range(2, total, 3)) | {total}
    assert results(killed) == results(whole)
    assert not list(killed.glob(".*.partial"))


def test_run_killed_before_its_record_is_completed(trained: Path, tmp_path: Path) -> None:
    """All iterations are done, the evaluation is not: resuming evaluates and writes the record."""
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    (run / "record.json").unlink()
    shutil.rmtree(run / "inference")
    before = load(run / "model_final.pth")
    out = launch(tmp_path, "--resume", f"train.output_dir={run}").succeeded()
    assert "total_loss" not in out
    assert_same(load(run / "model_final.pth"), before)
    assert results(run) == results(trained)
    assert iterations(run) == iterations(trained)
    record = json.loads((run / "record.json").read_text())
    assert record["iterations_done"] == ITERATIONS and record["mode"] == "train"


def test_old_checkpoints_are_removed(tmp_path: Path) -> None:
    keys = ["train.checkpointer.period=1", "train.checkpointer.max_to_keep=2", "train.draw=0"]
    keys.append("train.max_iter=8")
    launch(tmp_path, *keys, f"train.output_dir={tmp_path / 'run'}").succeeded()
    kept = sorted(p.name for p in (tmp_path / "run").glob("*.pth"))
    assert kept == ["model_0000006.pth", "model_0000007.pth", "model_final.pth"]
