"""Whole runs through the command line: in this process (no seconds for imports), or in one anew."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from mask_rcnn_repro.config import load_config
from mask_rcnn_tools.train.cli import parse_args
from mask_rcnn_tools.train.main import main

REPOSITORY = Path(__file__).resolve().parents[2]
QUICKSTART = REPOSITORY / "configs" / "quickstart" / "mask_rcnn_r18_fpn.py"
RUN = Path("output/quickstart/mask_rcnn_r18_fpn@tiny/seed0")  # where a tiny quickstart goes
ITERATIONS = load_config(QUICKSTART, "tiny").train.max_iter  # that it takes

_LOGGERS = ("detectron2", "fvcore", "mask_rcnn_repro", "iopath", "detectron2.data.common")


@dataclass(frozen=True)
class CommandResult:
    """What a command left: exit code, and what it printed."""

    code: int
    out: str
    err: str

    def failed_plainly(self) -> str:
        """Asserts exit code 2 and no traceback; returns the error message."""
        assert self.code == 2, self.out + self.err
        assert "Traceback" not in self.out + self.err
        assert self.err.startswith("error: "), self.err
        return self.err

    def succeeded(self) -> str:
        """Asserts exit code 0; returns what was printed."""
        assert self.code == 0, self.out + self.err
        return self.out


def launch(
    folder: Path, *argv: str, config: Path | str = QUICKSTART, gpu: bool = False
) -> CommandResult:
    """Runs `train_net.py` in this process, in `folder`, at `tiny`, as if there were no GPU."""
    out, err = io.StringIO(), io.StringIO()
    with _undone(folder, gpu), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        profile = [] if "--profile" in argv else ["--profile", "tiny"]
        try:
            main(parse_args(["--config-file", str(config), *profile, *argv]))
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
    return CommandResult(code, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _undone(folder: Path, gpu: bool = False) -> Iterator[None]:
    """What a run changes in its process is as before afterwards; folder and CUDA as for a run."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    kept = [(log, log.handlers[:], log.level, log.propagate) for log in loggers]
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        if not gpu:
            patch.setattr(torch.cuda, "is_available", lambda: False)
        for name in ("WORLD_SIZE", "LOCAL_RANK", "CUBLAS_WORKSPACE_CONFIG"):
            patch.delenv(name, raising=False)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(False)
            for log, handlers, level, propagate in kept:
                log.handlers[:], log.propagate = handlers, propagate
                log.setLevel(level)


def environment() -> dict[str, str]:
    """Environment for `train_net.py` in a process of its own: no GPU, as many threads as here."""
    changed = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": str(torch.get_num_threads())}
    removed = ("WORLD_SIZE", "LOCAL_RANK", "PYTEST_CURRENT_TEST")
    return {k: v for k, v in os.environ.items() if k not in removed} | changed


def start(folder: Path, *command: str, timeout: float = 240, **variables: str) -> CommandResult:
    """Runs Python with the given arguments and environment variables in `folder`, and waits."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment() | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )
    return CommandResult(done.returncode, done.stdout, done.stderr)


def load(file: Path) -> dict[str, Any]:
    """A checkpoint's content."""
    return torch.load(file, map_location="cpu", weights_only=True)


def assert_same(left: Any, right: Any, where: str = "") -> int:
    """Asserts that two checkpoints hold the same, bit for bit; returns the number of tensors."""
    assert type(left) is type(right), where
    if isinstance(left, torch.Tensor):
        assert torch.equal(left, right), where
        return 1
    if isinstance(left, dict):
        assert left.keys() == right.keys(), where
        return sum(assert_same(left[key], right[key], f"{where}.{key}") for key in left)
    if isinstance(left, (list, tuple)):
        assert len(left) == len(right), where
        return sum(assert_same(a, b, f"{where}[]") for a, b in zip(left, right, strict=True))
    assert left == right, where
    return 0


def metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.json`."""
    return [json.loads(line) for line in (run / "metrics.json").read_text().splitlines()]


def iterations(run: Path) -> list[int]:
    """The iterations in `metrics.json`, as they stand there."""
    return [row["iteration"] for row in metrics(run)]


def results(run: Path, dataset: str = "embedded_tiny_val") -> dict[str, Any]:
    """Detections in the result files of a run's last evaluation, by task."""
    files = sorted((run / "inference" / dataset).glob("*_results.json"))
    found = {file.stem: json.loads(file.read_text()) for file in files}
    assert found and all(found.values()), "no detections: a comparison would prove nothing"
    return found
