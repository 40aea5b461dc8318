"""A training in a process of its own, and what can be seen of it from outside."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import mask_rcnn_repro
from mask_rcnn_repro.errors import UserError

POINTER = "last_checkpoint"

_POLL_SECONDS = 0.01
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
_HANG_SECONDS = 900.0

_CODE = """
from mask_rcnn_tools.train.cli import parse_args
from mask_rcnn_tools.startup import quiet_dependencies
quiet_dependencies()
args = parse_args()
from mask_rcnn_tools.train.main import main
main(args)
"""


class HangError(UserError):
    """A training did nothing for a long time."""


class Training:
    """A command line of `train_net.py` that resumes, and its folder.

    Args:
        folder: output folder of the run.
        arguments: of the command line, without output folder and `--resume`.
    """

    def __init__(self, folder: Path, arguments: Sequence[str]) -> None:
        self.folder = folder
        self.arguments = [*arguments, f"train.output_dir={folder}", "--resume"]
        self.output = folder.with_name(folder.name + ".out")
        self.process: subprocess.Popen[bytes] | None = None
        self.seen = 0  # of the output, when the process was started

    def start(self, file_limit: int | None = None) -> None:
        """Starts, or goes on.

        Args:
            file_limit: bytes that a file may have.
        """

        libc = ctypes.CDLL(None)

        def limit() -> None:
            libc.prctl(_DIE_WITH_PARENT, signal.SIGKILL)  # a soak that is killed leaves no training
            if file_limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))

        sources = str(Path(mask_rcnn_repro.__file__).resolve().parents[1])
        path = os.pathsep.join(filter(None, [sources, os.environ.get("PYTHONPATH")]))
        self.output.parent.mkdir(parents=True, exist_ok=True)
        self.seen = self.output.stat().st_size if self.output.exists() else 0
        with open(self.output, "ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _CODE, *self.arguments],
                env={**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""},
                stdout=output,
                stderr=output,
                preexec_fn=limit,
            )

    def wait_until(self, so: Callable[[], bool]) -> bool:
        """Waits until something is so; returns whether it is, False if the process has ended.

        Raises:
            HangError: neither for a quarter of an hour.
        """
        assert self.process is not None
        begun = time.monotonic()
        while not so():
            if self.process.poll() is not None:
                return False
            if time.monotonic() - begun > _HANG_SECONDS:
                self.process.kill()
                raise HangError(f"Nothing happened for {_HANG_SECONDS:.0f} s; see {self.output}.")
            time.sleep(_POLL_SECONDS)
        return True

    def exit_status(self) -> int:
        """Waits for the process; negative: the signal that killed it."""
        assert self.process is not None
        self.wait_until(lambda: False)
        return int(self.process.wait())

    def kill(self, number: int) -> None:
        """Sends it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def said(self) -> str:
        """What it has printed since it was started."""
        with open(self.output, "rb") as file:
            file.seek(self.seen)
            return file.read().decode(errors="replace")

    def iterations(self) -> int:
        """Iterations that `metrics.json` tells of."""
        rows = self.metrics()
        return max((int(row["iteration"]) + 1 for row in rows if "total_loss" in row), default=0)

    def metrics(self) -> list[dict[str, float]]:
        """The whole lines of `metrics.json`."""
        file, rows = self.folder / "metrics.json", []
        for line in file.read_text(errors="replace").splitlines() if file.exists() else ():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:  # cut short by a kill
                continue
        return rows

    def saved(self) -> int:
        """Iterations of the last checkpoint, by its name."""
        pointer = self.folder / POINTER
        name = pointer.read_text() if pointer.exists() else ""
        digits = "".join(filter(str.isdigit, name))
        return int(digits) + 1 if digits else 0

    def saving(self) -> bool:
        """Whether a checkpoint is being written."""
        return any(self.folder.glob(".model_*.partial"))

    def workers(self) -> list[int]:
        """Ids of the processes that it has forked."""
        assert self.process is not None
        task = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in task.read_text().split()] if task.exists() else []
