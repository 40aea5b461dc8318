"""Two processes on the CPU with gloo, started by `--num-gpus` and by `torchrun`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mask_rcnn_repro.records.record import load_record

from .run_helpers import (
    ITERATIONS,
    QUICKSTART,
    REPOSITORY,
    CommandResult,
    iterations,
    launch,
    metrics,
    results,
    start,
)

TRAIN_NET = str(REPOSITORY / "train_net.py")
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
QUICK = ["--config-file", str(QUICKSTART), "--profile", "tiny", "train.draw=0"]


@pytest.fixture(
    scope="module",
    params=[pytest.param(way, marks=pytest.mark.slow) for way in ("num-gpus", "torchrun")],
)
def two_processes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, CommandResult]:
    """Folder and outcome of a run by two processes."""
    folder = tmp_path_factory.mktemp("two")
    output = f"train.output_dir={folder / 'run'}"
    if request.param == "num-gpus":
        outcome = start(folder, TRAIN_NET, *QUICK, output, "--num-gpus", "2")
    else:
        outcome = start(folder, *TORCHRUN, TRAIN_NET, *QUICK, output)
    return folder / "run", outcome


def test_trains_with_the_same_files_as_one_process(
    two_processes: tuple[Path, CommandResult], trained: Path
) -> None:
    run, outcome = two_processes
    outcome.succeeded()
    assert outcome.out.count(f"iteration {ITERATIONS} of {ITERATIONS}") == 1
    assert "Warning" not in outcome.err and "Traceback" not in outcome.err, outcome.err
    assert load_record(run / "record.json").world_size == 2
    assert iterations(run) == iterations(trained)
    assert [set(row) for row in metrics(run)] == [set(row) for row in metrics(trained)]
    names = {p.name for p in run.iterdir()} - {"log.txt.rank1"}
    assert names == {p.name for p in trained.iterdir()} - {"drawings"}
    # both processes worked: the losses are means over the images of both
    assert metrics(run)[0]["loss_rpn_cls"] != metrics(trained)[0]["loss_rpn_cls"]


def test_evaluates_as_one_process_does(
    two_processes: tuple[Path, CommandResult], tmp_path: Path
) -> None:
    run, outcome = two_processes
    outcome.succeeded()
    weights = f"train.init_checkpoint={run / 'model_final.pth'}"
    launch(
        tmp_path, "--eval-only", weights, "train.draw=0", f"train.output_dir={tmp_path / 'one'}"
    ).succeeded()
    assert results(tmp_path / "one") == results(run)
    one, two = (json.loads((p / "record.json").read_text()) for p in (tmp_path / "one", run))
    assert one["metrics"] == two["metrics"]
    assert one["test_data"] == two["test_data"]


def test_a_mistake_is_told_once_and_before_processes_start(tmp_path: Path) -> None:
    message = launch(tmp_path, "--num-gpus", "2", "train.max_itr=3").failed_plainly()
    assert "Did you mean 'train.max_iter'?" in message
    assert list(tmp_path.iterdir()) == []


def test_batch_that_two_processes_cannot_share(tmp_path: Path) -> None:
    message = launch(
        tmp_path, "--num-gpus", "2", "dataloader.train.total_batch_size=3"
    ).failed_plainly()
    assert "total_batch_size is 3" in message and "multiple of 2" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_mistake_that_processes_meet_ends_all(tmp_path: Path) -> None:
    outcome = start(
        tmp_path, TRAIN_NET, *QUICK, "--num-gpus", "2", "--eval-only", "train.init_checkpoint=x.pth"
    )
    assert outcome.code == 2 and "Traceback" not in outcome.out + outcome.err, outcome.err
    assert "x.pth" in outcome.err and "does not exist" in outcome.err
