"""What a run leaves, evaluating it again, and what is refused around its folder."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import cv2
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mask_rcnn_repro.config import config_hash, load_config
from mask_rcnn_repro.records.record import load_record

from .run_helpers import (
    ITERATIONS,
    QUICKSTART,
    RUN,
    CommandResult,
    iterations,
    launch,
    load,
    metrics,
    results,
)

DONE = f"iteration {ITERATIONS} of {ITERATIONS}"
TASKS = ("bbox", "segm")
CLASSES = {"person", "mug", "cup", "leaf", "fish", "star", "cog"}


def test_saved_config_is_the_one_that_ran(trained: Path) -> None:
    saved = load_config(trained / "config.yaml")
    assert config_hash(saved) == config_hash(load_config(QUICKSTART, "tiny"))
    assert load_record(trained / "record.json").config.hash == config_hash(saved)


def test_every_iteration_is_in_the_metrics_and_in_tensorboard(trained: Path) -> None:
    rows = metrics(trained)
    assert iterations(trained) == list(range(ITERATIONS + 1))
    for row in rows[:-1]:
        assert row["total_loss"] > 0 and row["lr"] > 0
        assert {"loss_cls", "loss_box_reg", "loss_mask", "loss_rpn_cls", "loss_rpn_loc"} <= set(row)
    assert {f"{task}/AP" for task in TASKS} <= set(rows[-1])
    board = EventAccumulator(str(trained / "tensorboard"))
    board.Reload()
    assert [e.step for e in board.Scalars("total_loss")] == list(range(ITERATIONS))
    assert [e.step for e in board.Scalars("segm/AP")] == [ITERATIONS]


def test_checkpoints(trained: Path) -> None:
    period = load_config(trained / "config.yaml").train.checkpointer.period
    periodic = [f"model_{i - 1:07d}.pth" for i in range(period, ITERATIONS + 1, period)][-3:]
    assert sorted(p.name for p in trained.glob("*.pth")) == [*periodic, "model_final.pth"]
    assert (trained / "last_checkpoint").read_text() == "model_final.pth"
    final = load(trained / "model_final.pth")
    assert final["iteration"] == ITERATIONS - 1
    assert all(torch.isfinite(v).all() for v in final["model"].values())
    assert (trained / "model_final.pth").stat().st_size < 20e6
    assert not [p for p in trained.rglob("*") if p.name.endswith(".partial")]


def test_record(trained: Path) -> None:
    record = load_record(trained / "record.json")
    assert (record.mode, record.config.id) == ("train", "quickstart/mask_rcnn_r18_fpn")
    assert (record.config.profile, record.config.overrides, record.seed) == ("tiny", [], 0)
    assert record.iterations_done == record.iterations_planned == ITERATIONS
    assert set(record.metrics) == set(TASKS)
    for task in TASKS:
        assert set(record.metrics[task].per_class) == CLASSES
    assert record.test_data is not None and record.test_data.name == "embedded_tiny_val"
    assert record.train_data is not None and record.train_data.name == "embedded_tiny_train"
    assert record.seconds_per_image is not None and record.seconds_per_image.inference > 0
    assert record.device.type == "cpu" and record.world_size == 1


def test_drawings_show_ground_truth_beside_predictions(trained: Path) -> None:
    record = load_record(trained / "record.json")
    files = sorted((trained / "drawings").glob("*.png"))
    assert record.test_data is not None and len(files) == record.test_data.images == 12
    for file in files:
        height, width, channels = cv2.imread(str(file)).shape
        # enlarged to a readable height; two panels, and no image is flatter than 3 : 1
        assert channels == 3 and 480 <= height <= 1500 and height * 0.6 < width < height * 6
        assert cv2.imread(str(file)).std() > 5


def test_output_is_clean_and_ends_with_the_table(training: tuple[Path, CommandResult]) -> None:
    folder, outcome = training
    for noise in ("Warning", "is_fx_tracing", "deprecated", "Traceback", str(Path.home())):
        assert noise not in outcome.out
    assert "eta: " in outcome.out and "total_loss" in outcome.out
    table = outcome.out.partition("Record written")[2]
    assert DONE in table and "mask" in table and "AP50" in table
    log = (folder / RUN / "log.txt").read_text()
    printed = [line for line in outcome.out.splitlines() if line.startswith("[")]
    assert [line for line in printed if line not in log] == []


def test_evaluating_the_checkpoint_gives_the_same_numbers(trained: Path, tmp_path: Path) -> None:
    weights = trained / "model_final.pth"
    launch(tmp_path, "--eval-only", f"train.init_checkpoint={weights}").succeeded()
    (again,) = (tmp_path / RUN / "eval").iterdir()
    assert again.name.startswith("model_final-")
    assert results(again) == results(trained)
    first, second = load_record(trained / "record.json"), load_record(again / "record.json")
    assert second.mode == "eval" and second.iterations_done == ITERATIONS
    assert second.metrics == first.metrics
    assert second.checkpoint == first.checkpoint
    assert len(list((again / "drawings").glob("*.png"))) == 12


def test_evaluating_the_last_checkpoint_leaves_the_training_record(
    trained: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    before = (run / "record.json").read_bytes()
    given = f"train.output_dir={run}"
    launch(tmp_path, "--eval-only", "--resume", given, "train.draw=0").succeeded()
    assert (run / "record.json").read_bytes() == before
    assert load_record(run / "eval" / "last" / "record.json").mode == "eval"
    message = launch(
        tmp_path, "--eval-only", given, f"train.init_checkpoint={run}/model_final.pth"
    ).failed_plainly()
    assert "--resume" in message and "train.output_dir" in message
    assert (run / "record.json").read_bytes() == before


def test_resuming_a_finished_run_prints_its_record(trained: Path, tmp_path: Path) -> None:
    run = tmp_path / RUN
    shutil.copytree(trained, run)
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file()}
    out = launch(tmp_path, "--resume").succeeded()
    assert "complete already" in out and DONE in out and "total_loss" not in out
    after = {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file()}
    assert [p.name for p in after if after[p] != before.get(p)] == ["log.txt"]


def test_training_again_into_the_folder_is_refused(trained: Path, tmp_path: Path) -> None:
    run = tmp_path / RUN
    shutil.copytree(trained, run)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != "log.txt"}
    message = launch(tmp_path).failed_plainly()
    assert "--resume" in message and "train.output_dir" in message
    assert {p: p.read_bytes() for p in before} == before


def test_a_folder_with_another_config_is_refused(trained: Path, tmp_path: Path) -> None:
    for more in ([], ["--resume"]):
        message = launch(
            tmp_path, f"train.output_dir={trained}", f"train.max_iter={ITERATIONS + 1}", *more
        ).failed_plainly()
        assert "another config" in message
        assert re.search(rf"train.max_iter.*{ITERATIONS}.*{ITERATIONS + 1}", message)


@pytest.mark.parametrize("resume", [False, True])
def test_evaluating_without_a_checkpoint_says_what_to_give(tmp_path: Path, resume: bool) -> None:
    message = launch(tmp_path, "--eval-only", *["--resume"] * resume).failed_plainly()
    assert "train.init_checkpoint" in message
    assert list(tmp_path.iterdir()) == []  # nothing was begun


@pytest.mark.parametrize("eval_only", [False, True])
def test_weights_in_a_missing_file(tmp_path: Path, eval_only: bool) -> None:
    message = launch(
        tmp_path, *["--eval-only"] * eval_only, "train.init_checkpoint=no.pth"
    ).failed_plainly()
    assert "no.pth" in message and "does not exist" in message
    assert list(tmp_path.iterdir()) == []  # nothing was begun


@pytest.mark.slow
def test_weights_that_do_not_fit_are_all_listed(trained: Path, tmp_path: Path) -> None:
    checkpoint = load(trained / "model_final.pth")
    weights = checkpoint["model"]
    missing = [k for k in weights if k.startswith("roi_heads.mask_head.mask_fcn1")]
    for key in missing:
        del weights[key]
    weights["roi_heads.surplus.weight"] = torch.zeros(2)
    key = "roi_heads.box_predictor.cls_score.bias"
    weights[key] = weights[key][:-1].clone()
    run = tmp_path / RUN
    run.mkdir(parents=True)
    torch.save(checkpoint, run / "model_0000003.pth")
    (run / "last_checkpoint").write_text("model_0000003.pth")
    for argv in (
        ["--eval-only", f"train.init_checkpoint={run}/model_0000003.pth"],
        ["--eval-only", "--resume"],
        ["--resume"],
    ):
        message = launch(tmp_path, *argv).failed_plainly()
        lines = message.splitlines()
        for name in missing:
            assert any(name in line and "missing" in line for line in lines), (argv, name)
        assert any("roi_heads.surplus.weight" in x and "not in the model" in x for x in lines)
        assert any(key in x and "(7,)" in x and "(8,)" in x for x in lines), argv
        assert f"{len(missing) + 2} differences" in message


def test_initial_weights_must_fill_the_backbone(trained: Path, tmp_path: Path) -> None:
    weights = load(trained / "model_final.pth")["model"]
    body = {k: v for k, v in weights.items() if k.startswith("backbone.bottom_up.")}
    lacking = next(k for k in body if k.endswith("conv1.weight"))
    torch.save(body, tmp_path / "body.pth")
    torch.save({k: v for k, v in body.items() if k != lacking}, tmp_path / "less.pth")
    short = ["train.max_iter=1", "train.draw=0"]

    message = launch(tmp_path, "train.init_checkpoint=less.pth", *short).failed_plainly()
    assert lacking in message and "train.strict_init=false" in message
    assert "roi_heads" not in message  # the rest need not be there

    out = launch(
        tmp_path, "train.init_checkpoint=less.pth", "train.strict_init=false", *short
    ).succeeded()
    listed = out.partition("Starting training")[0]
    assert lacking.rpartition(".")[0] in listed and "roi_heads.box_head" in listed

    # a backbone that is filled is used: with a learning rate of 0 it stays as it was
    frozen = ["optimizer.lr=0.0", f"train.output_dir={tmp_path / 'frozen'}"]
    launch(tmp_path, "train.init_checkpoint=body.pth", *frozen, *short).succeeded()
    after = load(tmp_path / "frozen" / "model_final.pth")["model"]
    kept = [k for k in body if not k.endswith(("running_mean", "running_var", "batches_tracked"))]
    assert kept and all(torch.equal(after[k], body[k]) for k in kept)
