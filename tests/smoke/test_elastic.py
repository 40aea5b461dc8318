"""One of the processes that `torchrun` has started dies: all are restarted and resume."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .fault_helpers import fork_two, iterations_logged
from .run_helpers import QUICKSTART, REPOSITORY, assert_same, environment, iterations, load, results

pytestmark = pytest.mark.slow

KEYS = ["train.max_iter=14", "train.checkpointer.period=4", "train.draw=0", "train.log_period=1"]


def process_of_rank(rank: int, parent: int) -> int:
    """The child of a process that has this rank."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    for pid in children:
        if f"RANK={rank}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            return int(pid)
    raise AssertionError


def test_restart_after_the_death_of_one_process(tmp_path: Path) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [str(REPOSITORY / "train_net.py"), "--config-file", str(QUICKSTART)]
    keys = ["--profile", "tiny", *KEYS, f"train.output_dir={run}"]
    process = subprocess.Popen(
        [sys.executable, *torchrun, "--max-restarts=1", *command, *keys],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 200
    while iterations_logged(run) < 6 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process_of_rank(1, process.pid), signal.SIGKILL)
    others = fork_two(tmp_path, *KEYS, f"train.output_dir={whole}")  # meanwhile
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, out + err
    assert "Restart 1 by torchrun: resuming." in out
    # the last periodic checkpoint, or what the other process had completed when it noticed
    assert int(re.search(r"Resuming after (\d+) iterations", out)[1]) >= 4
    for child in others:
        child.wait().succeeded()
    assert_same(load(run / "model_final.pth"), load(whole / "model_final.pth"))
    assert results(run) == results(whole)
    assert iterations(run) == iterations(whole)
