"""Replaces loader workers that die, and stops with an error if they keep dying.

What is loaded depends on the number of the batch alone, so new workers continue where the dead ones
stopped. PyTorch raises an error at the moment a worker dies, which may be in the middle of a
training step. Here the error is raised only while the program waits for a batch.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from typing import Any

from mask_rcnn_repro.errors import WorkerError

logger = logging.getLogger(__name__)

MAX_DEATHS = 3
"""Deaths in a row after which loading ends."""

FORGIVEN_AFTER = 20
"""Batches between two deaths that are not in a row."""

_DISPOSAL_SECONDS = 1.0
_REPORT_SECONDS = 1.0
_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG
_END, _DEAD = object(), object()
_waiting = False
_pytorch_handler: Callable[..., Any] | None = None


def surviving_deaths(from_batch: Callable[[int], Iterator[Any]]) -> Iterator[Any]:
    """Yields batches. If a worker dies, new workers load the rest.

    Args:
        from_batch: Returns an iterator of a PyTorch loader that starts at the given batch.

    Raises:
        WorkerError: If workers die :data:`MAX_DEATHS` times in a row.
    """
    done = deaths = 0
    last_death = -FORGIVEN_AFTER
    iterator, workers = _started(from_batch, 0)
    try:
        while True:
            try:
                with _deaths_raise():
                    # looked at here, since PyTorch may wait for a lock that is gone to say so
                    dead = _dead(workers)
                    batch = _DEAD if dead else next(iterator, _END)
            except (RuntimeError, OSError, EOFError):
                # data of a worker that has died may be gone too, which gives errors of many kinds;
                # they may come before the system reports the death
                dead, deadline = "", time.monotonic() + _REPORT_SECONDS
                while workers and not (dead := _dead(workers)) and time.monotonic() < deadline:
                    time.sleep(0.01)
                if not dead:
                    raise
                batch = _DEAD
            if batch is _END:
                return
            if batch is not _DEAD:
                done += 1
                yield batch
                continue
            deaths = deaths + 1 if done - last_death < FORGIVEN_AFTER else 1
            last_death = done
            if deaths >= MAX_DEATHS:
                raise WorkerError(
                    f"Processes that load data died {deaths} times in a row, the last at batch "
                    f"{done} since loading began: {dead}. SIGKILL is what the system sends when "
                    "memory runs out (fewer dataloader.*.num_workers take less), SIGBUS a full "
                    "/dev/shm, SIGSEGV a library that fails on an image. With num_workers=0 images "
                    "are loaded in the training process, which shows errors where they are."
                )
            logger.warning(
                "Processes that load data died: %s. New ones go on from batch %d.", dead, done
            )
            _dispose(iterator, workers)
            iterator = iter(())
            gc.collect()  # errors hold each other and this frame
            iterator, workers = _started(from_batch, done)
    finally:
        if _dead(workers):
            _dispose(iterator, workers)


def _dead(workers: list[BaseProcess]) -> str:
    """Those that did not end by themselves, and how they ended; empty if there is none."""
    ends = []
    for worker in workers:
        if not worker.is_alive() and (code := worker.exitcode):
            how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
            ends.append(f"{worker.pid} ({how})")
    return ", ".join(ends)


def _dispose(iterator: Iterator[Any], workers: list[BaseProcess]) -> None:
    """Ends what is left of an iterator, without waiting for locks that the dead have taken along.

    PyTorch tells workers to end by an event. A worker that was killed while it looked at the event
    holds its lock for ever, so that happens in a thread that may hang.
    """
    for worker in workers:
        worker.kill()
    if shut_down := getattr(iterator, "_shutdown_workers", None):
        thread = threading.Thread(target=shut_down, name="workers' end", daemon=True)
        thread.start()
        thread.join(_DISPOSAL_SECONDS)


def _started(
    from_batch: Callable[[int], Iterator[Any]], number: int
) -> tuple[Iterator[Any], list[BaseProcess]]:
    """The iterator and the processes that it has started."""
    global _pytorch_handler
    before = set(multiprocessing.active_children())
    iterator = from_batch(number)
    workers = [child for child in multiprocessing.active_children() if child not in before]
    if workers and threading.current_thread() is threading.main_thread():
        handler = signal.getsignal(signal.SIGCHLD)
        if callable(handler) and handler is not _on_end_of_child:
            _pytorch_handler = handler
            signal.signal(signal.SIGCHLD, _on_end_of_child)
    return iterator, workers


def _on_end_of_child(number: int, frame: object) -> None:
    if _waiting and _pytorch_handler is not None:
        _pytorch_handler(number, frame)


@contextlib.contextmanager
def _deaths_raise() -> Iterator[None]:
    """PyTorch raises an error for a worker that dies now."""
    global _waiting
    _waiting = True
    try:
        yield
    finally:
        _waiting = False


def die_with_parent() -> None:
    """Makes the system kill this process when the one that has started it ends, however it does.

    A worker whose parent was killed could wait for ever to hand its data over, and would hold the
    memory that it has inherited.
    """
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended meanwhile
        os._exit(1)
