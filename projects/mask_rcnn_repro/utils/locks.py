"""Lock of a directory, for runs that share the stages they depend on."""

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
_GLANCE_SECONDS = 0.2  # tools/run_table.py takes a lock briefly to see whether it is held


@contextmanager
def exclusive(
    folder: Path, *, purpose: str, wait: bool, lock_file: str = LOCK_FILE
) -> Iterator[bool]:
    """Locks a directory for this run, by a lock file that is released if the process is killed.

    All processes of a run call it together; the main process holds the lock.

    Args:
        folder: Directory; created if needed.
        purpose: What the run creates there, for messages.
        wait: Whether to wait for another run instead of raising an error.
        lock_file: Name of the lock file.

    Yields:
        Whether another run was waited for, which may have created the files.

    Raises:
        ConfigError: If the directory is not writable.
        UserError: If another run holds the directory and `wait` is false.
    """
    lock = FileLock(folder / lock_file) if comm.is_main_process() else None
    waited = False
    while True:  # each attempt is reported to all processes; otherwise they would time out
        state = _try_to_hold(lock, seconds=_POLL_SECONDS if waited else _GLANCE_SECONDS)
        held, fault = comm.all_gather(state)[0]
        if held or fault or not wait:
            break
        if not waited:
            logger.info("Another run uses %s; waiting for %s.", folder, purpose)
        waited = True
    if fault:
        raise ConfigError(
            f"The output directory {folder} cannot be written to: {fault}. Set another one with "
            "train.output_dir=FOLDER."
        )
    if not held:
        raise UserError(
            f"Another run uses {folder} ({purpose}). Start this one again after it has ended, or "
            "stop it first."
        )
    try:
        yield waited
    finally:
        if lock is not None:
            lock.release()


def _try_to_hold(lock: FileLock | None, seconds: float) -> tuple[bool, str]:
    """Returns whether the lock is held now, and the error if it cannot be."""
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
