"""One run at a time in a folder: rows started side by side share their stages."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from detectron2.utils import comm
from filelock import FileLock, Timeout

from mask_rcnn_repro.errors import UserError

logger = logging.getLogger(__name__)

LOCK_FILE = ".lock"
_POLL_SECONDS = 2.0


@contextmanager
def exclusive(
    folder: Path, *, purpose: str, wait: bool, lock_file: str = LOCK_FILE
) -> Iterator[bool]:
    """Holds a folder for this run, by a lock file that a killed process releases.

    All processes of a run call it together; the first holds the lock.

    Args:
        folder: Made if needed.
        purpose: What is made there, for messages.
        wait: Wait for another run to finish there, rather than refuse. Several processes never
            wait, since their connection would time out.
        lock_file: Its name in the folder.

    Yields:
        Whether another run has been waited for: what is made there may exist now.

    Raises:
        UserError: Another run holds the folder and is not waited for.
    """
    lock: FileLock | None = None
    waited = False
    if comm.is_main_process():
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / lock_file)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if wait and comm.get_world_size() == 1:
                logger.info("Another run is at work in %s; waiting for %s.", folder, purpose)
                lock.acquire(poll_interval=_POLL_SECONDS)
                waited = True
    held, waited = comm.all_gather((lock is None or lock.is_locked, waited))[0]
    if not held:
        raise UserError(
            f"Another run is at work in {folder} ({purpose}). Start this one again when it has "
            "ended, or stop the other first."
        )
    try:
        yield waited
    finally:
        if lock is not None:
            lock.release()
