"""Work on many images in several processes."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from mask_rcnn_embedded.errors import UserError

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


def map_in_processes(
    work: Callable[[_Task], _Result],
    tasks: Iterable[_Task],
    num_workers: int,
    chunksize: int,
    initializer: Callable[..., Any] | None = None,
    initargs: tuple[Any, ...] = (),
) -> Generator[_Result]:
    """Results in the order of the tasks. The processes end with the iterator.

    ``multiprocessing.Pool`` ends its processes by SIGTERM. In a program that handles SIGTERM in
    Python, as training does, a process that has just been forked loses the signal, and the pool
    waits for it for ever. It also waits for ever for a process that was killed. Here processes end
    by a message, and a killed one is an error.

    Args:
        work: A function that can be pickled.
        tasks: They are read at once.
        num_workers: Number of processes, at least 1.
        chunksize: Number of tasks that a process gets together.
        initializer: Called with ``initargs`` at the start of each process.
        initargs: See ``initializer``.

    Raises:
        UserError: A process was killed, such as by the system for want of memory.
    """
    # A forked process starts at once and does not repeat the imports.
    method = "fork" if sys.platform.startswith("linux") else "spawn"
    context = multiprocessing.get_context(method)
    executor = ProcessPoolExecutor(num_workers, context, initializer, initargs)
    try:
        yield from executor.map(work, tasks, chunksize=chunksize)
    except BrokenProcessPool:
        raise UserError(
            f"One of {num_workers} processes was killed, perhaps by the system for want of memory. "
            "Run the command again with more memory or on fewer cores (taskset)."
        ) from None
    finally:
        executor.shutdown(cancel_futures=True)
