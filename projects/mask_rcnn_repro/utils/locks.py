"""One run at a time in a folder: rows started side by side share their stages."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from detectron2.utils import comm
from filelock import FileLock, Timeout

from mask_rcnn_repro.errors import ConfigError, UserError

logger = logging.getLogger(__name__)

LOCK_FILE = ".lock"
_POLL_SECONDS = 2.0
_GLANCE_SECONDS = 0.2  # tools/run_table.py takes a lock for a moment, to see whether it is held


@contextmanager
def exclusive(
    folder: Path, *, purpose: str, wait: bool, lock_file: str = LOCK_FILE
) -> Iterator[bool]:
    """Holds a folder for this run, by a lock file that a killed process releases.

    All processes of a run call it together; the first holds the lock.

    Args:
        folder: Made if needed.
        purpose: What is made there, for messages.
        wait: Wait for another run to finish there, rather than refuse. Of several processes the
            first tries again and again, and tells the others each time, so that however long it
            takes their connection does not time out.
        lock_file: Its name in the folder.

    Yields:
        Whether another run has been waited for: what is made there may exist now.

    Raises:
        ConfigError: The folder cannot be written to.
        UserError: Another run holds the folder and is not waited for.
    """
    lock = FileLock(folder / lock_file) if comm.is_main_process() else None
    waited = False
    while True:
        state = _try_to_hold(lock, seconds=_POLL_SECONDS if waited else _GLANCE_SECONDS)
        held, fault = comm.all_gather(state)[0]
        if held or fault or not wait:
            break
        if not waited:
            logger.info("Another run is at work in %s; waiting for %s.", folder, purpose)
        waited = True
    if fault:
        raise ConfigError(
            f"The output folder {folder} cannot be written to: {fault}. Give another one with "
            "train.output_dir=FOLDER."
        )
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


def _try_to_hold(lock: FileLock | None, seconds: float) -> tuple[bool, str]:
    """Whether the lock is held now, and what makes that impossible."""
    if lock is None:
        return False, ""
    try:
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=seconds)
    except Timeout:
        return False, ""
    except OSError as error:
        return False, str(error)
    return True, ""
