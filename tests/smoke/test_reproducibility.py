"""Same seed, same weights, bit for bit: what docs/reproducibility.md says, on CPU and GPU."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mask_rcnn_repro.config import get_config
from mask_rcnn_repro.engine.builders import build_model
from mask_rcnn_repro.registration import register

from .run_helpers import (
    QUICKSTART,
    REPOSITORY,
    assert_same,
    launch,
    load,
    metrics,
    results,
    start,
)

Train = Callable[..., Path]
TRAIN_NET = str(REPOSITORY / "train_net.py")
KEYS = ["train.draw=0", "train.max_iter=4", "train.checkpointer.period=100", "train.eval_period=0"]
WORKERS = "dataloader.train.num_workers"


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Trains the quickstart at `tiny` with some keys, each set of them once, and gives its run."""
    done: dict[tuple[str, ...], Path] = {}

    def trained(*keys: str, again: bool = False) -> Path:
        if keys not in done or again:
            folder = tmp_path_factory.mktemp("run")
            launch(folder, *KEYS, *keys, "train.output_dir=run").succeeded()
            done[keys] = folder / "run"
        return done[keys]

    return trained


def same(left: Path, right: Path) -> int:
    """Asserts that two runs' final checkpoints and detections are equal, to the last bit."""
    assert left != right
    assert results(left) == results(right)
    return assert_same(load(left / "model_final.pth"), load(right / "model_final.pth"))


@pytest.mark.slow
def test_same_seed_same_weights(train: Train) -> None:
    assert same(train(), train(again=True)) > 400


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 4])
def test_the_number_of_workers_does_not_matter(train: Train, workers: int) -> None:
    assert same(train(f"{WORKERS}=0"), train(f"{WORKERS}={workers}")) > 400


@pytest.mark.slow
def test_threads_change_the_rounding_alone(train: Train, tmp_path: Path) -> None:
    """In processes of their own: as many threads as there are must be known from the start."""
    for run in ("run", "again"):
        command = [TRAIN_NET, "--config-file", str(QUICKSTART), "--profile", "tiny", *KEYS]
        # more than two, with which oneDNN is at fault in narrow models (engine/builders.py)
        threads = {"OMP_NUM_THREADS": "3", "OMP_WAIT_POLICY": "passive"}  # on any number of cores
        start(tmp_path, *command, f"train.output_dir={run}", **threads).succeeded()
    assert same(tmp_path / "run", tmp_path / "again") > 400
    one, three = (load(run / "model_final.pth")["model"] for run in (train(), tmp_path / "run"))
    assert any(not torch.equal(one[name], three[name]) for name in one)
    for name in one:
        torch.testing.assert_close(one[name], three[name], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_narrow_models_are_kept_from_a_fault_of_onednn() -> None:
    register()
    for profile, narrow in (("tiny", True), ("mini", False)):
        cfg = get_config("quickstart/mask_rcnn_r18_fpn", profile)
        weight = build_model(cfg, torch.device("cpu")).backbone.bottom_up.stem.conv1.weight
        assert weight.is_contiguous() == narrow


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_same_seed_same_weights_on_a_gpu(precision: str, tmp_path: Path) -> None:
    """With `train.deterministic`; without it runs agree about the first losses only."""
    keys = [f"train.amp.enabled={str(precision == 'bf16').lower()}", "train.device=cuda"]
    command = [TRAIN_NET, "--config-file", str(QUICKSTART), "--profile", "tiny", *KEYS, *keys]
    running = []
    for run in ("one", "two", "free"):  # at once, since most of the time is that of imports
        last = f"train.deterministic={str(run != 'free').lower()}", f"train.output_dir={run}"
        running.append(subprocess.Popen([sys.executable, *command, *last], cwd=tmp_path))
    assert [process.wait() for process in running] == [0, 0, 0]
    losses = {run: metrics(tmp_path / run)[0]["total_loss"] for run in ("one", "free")}
    assert same(tmp_path / "one", tmp_path / "two") > 400
    assert losses["free"] == pytest.approx(losses["one"], rel=1e-2)
