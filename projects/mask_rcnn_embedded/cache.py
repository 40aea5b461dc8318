"""Generated data sets: pictures made by several processes, one finished copy kept in a cache.

Shared by the generators. A data set is made in a folder beside its place and moved there as a
whole, under a lock: a killed run or two runs at once leave no half of a data set.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import cv2
from filelock import FileLock, Timeout

from mask_rcnn_embedded.errors import DataError

logger = logging.getLogger(__name__)

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


def default_workers(num_images: int, images_per_worker: int = 150) -> int:
    """Processes that pay for their start: one per ``images_per_worker``, at most one a core."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(cores or 1, num_images // images_per_worker))


@contextlib.contextmanager
def _single_threaded_opencv() -> Iterator[None]:
    """Small images gain nothing from OpenCV's threads, and processes already fill the cores."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _init_worker() -> None:
    cv2.setNumThreads(1)


def parallel_results(
    work: Callable[[_Task], _Result], tasks: list[_Task], num_workers: int
) -> Iterator[_Result]:
    """``work(task)`` for every task, in the order of the tasks, whoever makes them.

    Args:
        work: picklable function.
        tasks: picklable arguments.
        num_workers: processes; 1 stays in this one.
    """
    # Also before forking: a worker that inherits OpenCV's pool, without its threads, would hang.
    with _single_threaded_opencv():
        if num_workers <= 1:
            yield from map(work, tasks)
            return
        # Forking spares each worker the import of everything that the package imports.
        method = "fork" if sys.platform.startswith("linux") else "spawn"
        with multiprocessing.get_context(method).Pool(num_workers, _init_worker) as pool:
            yield from pool.imap(work, tasks, chunksize=8)


@contextlib.contextmanager
def file_lock(path: Path) -> Iterator[bool]:
    """Exclusive lock between processes, waited for; a killed process releases it.

    Args:
        path: the lock's file, in a folder that exists.

    Yields:
        Whether it is held: not where the folder is read-only or its file system has no locks.
    """
    lock = FileLock(path)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.info("Another process holds %s; waiting for it.", path)
            lock.acquire()
    except (OSError, NotImplementedError) as error:
        logger.debug("No lock on %s: %s", path, error)
    try:
        yield lock.is_locked
    finally:
        lock.release()


def ensure_in_cache(
    target: Path,
    *,
    what: str,
    generate: Callable[[Path], object],
    is_complete: Callable[[Path], bool],
    lock: Callable[[Path], contextlib.AbstractContextManager[bool]] = file_lock,
) -> Path:
    """``target``, generated if it is not there yet.

    Safe against other processes doing the same and against being killed.

    Args:
        target: folder of the data set; its parent is the cache, made if missing.
        what: name of the data set for messages, such as ``"the embedded data set"``.
        generate: fills an empty folder.
        is_complete: whether a folder holds the whole data set.
        lock: exclusive lock on a path; yields whether it is held.

    Raises:
        DataError: the cache cannot be written.
    """
    if is_complete(target):
        return target
    cache = target.parent
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with lock(cache / f"{target.name}.lock") as locked:
            if is_complete(target):
                return target
            if locked:  # nobody else is at work: what lies about is left from a killed run
                for stale in cache.glob(f"{target.name}.tmp-*"):
                    shutil.rmtree(stale, ignore_errors=True)
            logger.info("Writing %s %s", what, target)
            _generate_beside(target, generate, is_complete)
    except OSError as error:
        raise DataError(
            f"cannot write {what} to {target}: {error}. Set "
            "MASK_RCNN_REPRO_CACHE to a folder that can be written"
        ) from error
    return target


def _generate_beside(
    target: Path, generate: Callable[[Path], object], is_complete: Callable[[Path], bool]
) -> None:
    """Makes the data set beside ``target`` and moves it there."""
    cache = target.parent
    temporary = Path(tempfile.mkdtemp(prefix=f"{target.name}.tmp-", dir=cache))
    try:
        generate(temporary)
        temporary.chmod(0o755)  # mkdtemp's folders are private
        if target.exists() and not is_complete(target):
            # Damaged: out of the way first, since a folder with content cannot be replaced.
            doomed = Path(tempfile.mkdtemp(prefix=f"{target.name}.tmp-", dir=cache))
            os.replace(target, doomed)
            shutil.rmtree(doomed, ignore_errors=True)
        try:
            os.replace(temporary, target)
        except OSError:
            if not is_complete(target):  # otherwise another process was faster
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
