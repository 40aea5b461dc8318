"""The cache: one finished copy of each data set, written by one process at a time.

A data set is written to a temporary directory and moved to its place as a whole, under a lock. A
killed process or two concurrent ones leave no incomplete data set.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from mask_rcnn_embedded.errors import DataError

logger = logging.getLogger(__name__)


def embedded_root() -> Path:
    """Directory of the cached data sets.

    ``$MASK_RCNN_REPRO_CACHE`` if set; else ``datasets/embedded`` of the checkout that this package
    is imported from; else ``~/.cache/mask_rcnn_repro/embedded``.
    """
    chosen = os.environ.get("MASK_RCNN_REPRO_CACHE")
    if chosen:
        return Path(chosen).expanduser().resolve()
    checkout = Path(__file__).resolve().parents[2]
    if all((checkout / mark).exists() for mark in ("configs", "datasets", "train_net.py")):
        return checkout / "datasets" / "embedded"
    return Path.home() / ".cache" / "mask_rcnn_repro" / "embedded"


@contextlib.contextmanager
def file_lock(path: Path) -> Iterator[bool]:
    """Waits for an exclusive lock between processes; a killed process releases it.

    Args:
        path: file of the lock, in a directory that exists.

    Yields:
        Whether the lock is held. It is not if the directory is read-only or its file system has no
        locks.
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
    title: str,
    generate: Callable[[Path], object],
    is_complete: Callable[[Path], bool],
) -> Path:
    """Generates a data set unless it is in the cache already.

    Args:
        target: directory of the data set. Its parent is the cache.
        title: name of the data set for messages.
        generate: fills an empty directory.
        is_complete: whether a directory holds the whole data set.

    Returns:
        ``target``.

    Raises:
        DataError: the cache cannot be written.
    """
    if is_complete(target):
        return target
    cache = target.parent
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with file_lock(cache / f"{target.name}.lock") as locked:
            if is_complete(target):
                return target
            if locked:  # no other process writes: temporary directories are left from killed ones
                for stale in cache.glob(f"{target.name}.tmp-*"):
                    shutil.rmtree(stale, ignore_errors=True)
            logger.info("Writing the %s %s", title, target)
            began = time.perf_counter()
            _generate_and_move(target, generate, is_complete)
            seconds = time.perf_counter() - began
            logger.info("It was written in %.1f s and is used from now on.", seconds)
    except OSError as error:
        raise DataError(
            f"cannot write the {title} to {target}: {error}. Set MASK_RCNN_REPRO_CACHE to a "
            "writable directory."
        ) from error
    return target


def _generate_and_move(
    target: Path, generate: Callable[[Path], object], is_complete: Callable[[Path], bool]
) -> None:
    prefix = f"{target.name}.tmp-"
    temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
    try:
        generate(temporary)
        temporary.chmod(0o755)  # directories of mkdtemp are private
        if target.exists() and not is_complete(target):
            # A damaged data set is moved away first: a non-empty directory cannot be replaced.
            damaged = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
            os.replace(target, damaged)
            shutil.rmtree(damaged, ignore_errors=True)
        try:
            os.replace(temporary, target)
        except OSError:
            if not is_complete(target):  # otherwise another process was faster
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
