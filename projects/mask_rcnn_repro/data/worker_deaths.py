"""Loading goes on when a process that loads data dies, and stops with a reason if they keep dying.

What is loaded depends on the number of the batch alone, so new workers go on where the dead ones
were. PyTorch raises an error when a worker dies, wherever the program is at that moment: in the
middle of a training step, say. Here that happens only while a batch is waited for.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from typing import Any

from mask_rcnn_repro.errors import WorkerError

logger = logging.getLogger(__name__)

MAX_DEATHS = 3
"""Deaths in a row after which loading ends."""

FORGIVEN_AFTER = 20
"""Batches between two deaths that are not in a row."""

_END, _DEAD = object(), object()
_waiting = False
_pytorch_handler: Callable[..., Any] | None = None


def surviving_deaths(from_batch: Callable[[int], Iterator[Any]]) -> Iterator[Any]:
    """Yields batches; when a worker process dies, those that are left come from new workers.

    Args:
        from_batch: makes an iterator of a PyTorch loader, from the batch of the given number on.

    Raises:
        WorkerError: workers die again and again.
    """
    done = deaths = 0
    last_death = -FORGIVEN_AFTER
    iterator, workers = _started(from_batch, 0)
    while True:
        try:
            with _deaths_are_told():
                batch = next(iterator, _END)
        except (RuntimeError, OSError, EOFError):
            # data of a worker that has died may be gone as well, which gives errors of many kinds
            dead = [worker for worker in workers if not worker.is_alive()]
            if not dead:
                raise
            told = ", ".join(f"{worker.pid} ({_how(worker.exitcode)})" for worker in dead)
            deaths = deaths + 1 if done - last_death < FORGIVEN_AFTER else 1
            last_death = done
            iterator = iter(())
            if deaths >= MAX_DEATHS:
                raise WorkerError(
                    f"Processes that load data died {deaths} times in a row, the last at batch "
                    f"{done} since loading began: {told}. SIGKILL is what the system sends when "
                    "memory runs out (fewer dataloader.*.num_workers take less), SIGBUS a full "
                    "/dev/shm, SIGSEGV a library that fails on an image. With num_workers=0 images "
                    "are loaded in the training process, which shows errors where they are."
                ) from None
            logger.warning(
                "Processes that load data died: %s. New ones go on from batch %d.", told, done
            )
            batch = _DEAD
        if batch is _DEAD:
            gc.collect()  # errors hold each other and this frame; ends workers that are left
            iterator, workers = _started(from_batch, done)
            continue
        if batch is _END:
            return
        done += 1
        yield batch


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
def _deaths_are_told() -> Iterator[None]:
    """PyTorch raises an error for a worker that has died before or dies now."""
    global _waiting
    _waiting = True
    try:
        _on_end_of_child(signal.SIGCHLD, None)
        yield
    finally:
        _waiting = False


def _how(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        return signal.Signals(-exit_code).name
    return f"exit status {exit_code}"
