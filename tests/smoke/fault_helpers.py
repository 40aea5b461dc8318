"""Runs of `train_net.py` in processes that may be killed: forked, so that imports cost nothing."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from detectron2.utils import comm

from mask_rcnn_tools.launch import processes
from mask_rcnn_tools.train.cli import parse_args
from mask_rcnn_tools.train.main import EXTENSIONS, main
from mask_rcnn_tools.train.run import run

from .run_helpers import QUICKSTART, CommandResult

SECONDS = 400.0  # a busy machine may take minutes
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


@dataclass
class Child:
    """A process of a run."""

    pid: int
    folder: Path
    name: str

    def kill(self, number: int) -> None:
        """Sends a signal."""
        os.kill(self.pid, number)

    def ended(self) -> bool:
        """Whether it has ended; it can still be waited for."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def said(self, end: str = "out") -> str:
        """What it has printed so far."""
        file = self.folder / f"{self.name}.{end}"
        return file.read_text() if file.exists() else ""

    def wait(self) -> CommandResult:
        """Exit status (negative: killed by this signal) and what it printed."""
        deadline = time.monotonic() + SECONDS
        while not self.ended():
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
            time.sleep(0.005)
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return CommandResult(code, self.said("out"), self.said("err"))


def fork(
    folder: Path,
    *argv: str,
    before: Callable[[], None] = lambda: None,
    config: Path | str = QUICKSTART,
    rank: int = 0,
    world_size: int = 1,
    meeting: Path | None = None,
) -> Child:
    """Starts a run at `tiny` in a process of its own; `before` is called in it first.

    With a meeting file it is one of several, as `--num-gpus` starts them.
    """
    name = f"process{rank}-{time.monotonic_ns()}"
    args = parse_args(["--config-file", str(config), "--profile", "tiny", *argv])
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return Child(pid, folder, name)
    code = 1
    try:
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        os.chdir(folder)
        for number, end in ((1, "out"), (2, "err")):
            os.dup2(os.open(folder / f"{name}.{end}", os.O_CREAT | os.O_WRONLY), number)
        sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1) for n in (1, 2))
        logging.getLogger().handlers.clear()
        torch.cuda.is_available = lambda: False
        before()
        if meeting is None:
            main(args)
        else:
            dist.init_process_group(
                "gloo", init_method=f"file://{meeting}", rank=rank, world_size=world_size
            )
            comm.create_local_process_group(world_size)
            processes._guarded(functools.partial(run, extensions=EXTENSIONS), args, timeout=600)
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def fork_two(
    folder: Path,
    *argv: str,
    before_second: Callable[[], None] = lambda: None,
    config: Path | str = QUICKSTART,
) -> list[Child]:
    """Two processes of one run; something is called in the second of them first."""
    meeting = folder / f"meeting-{time.monotonic_ns()}"
    return [
        fork(folder, *argv, before=before, config=config, rank=rank, world_size=2, meeting=meeting)
        for rank, before in enumerate((lambda: None, before_second))
    ]


def wait_for(condition: Callable[[], bool], *children: Child) -> None:
    """Waits until something is so; fails if a process ends before, or it takes too long."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        for child in children:
            assert not child.ended(), child.wait()
            if time.monotonic() > deadline:
                child.kill(signal.SIGKILL)
        time.sleep(0.002)


def iterations_logged(run: Path) -> int:
    """How many iterations `metrics.json` tells of, with `train.log_period=1`."""
    file = run / "metrics.json"
    return file.read_bytes().count(b"total_loss") if file.exists() else 0


class _Trigger(logging.Handler):
    def __init__(self, text: str, action: Callable[[], None]) -> None:
        super().__init__()
        self.text, self.action = text, action

    def emit(self, record: logging.LogRecord) -> None:
        if self.text in record.getMessage():
            self.text = "\0never again"
            self.action()


def trigger(logger: str, text: str, action: Callable[[], None]) -> logging.Handler:
    """Does something, in this very process, when a logger says something for the first time."""
    handler = _Trigger(text, action)
    logging.getLogger(logger).addHandler(handler)
    return handler


@contextlib.contextmanager
def when_logged(logger: str, text: str, action: Callable[[], None]) -> Iterator[None]:
    """The same, for a while."""
    handler = trigger(logger, text, action)
    try:
        yield
    finally:
        logging.getLogger(logger).removeHandler(handler)


def send(number: int) -> Callable[[], None]:
    """Sends a signal to the process that calls it."""
    return lambda: os.kill(os.getpid(), number)
