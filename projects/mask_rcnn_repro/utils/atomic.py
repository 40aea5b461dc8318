"""Files that are either complete or absent, even if the writing process is killed.

The content is written to a temporary file in the same directory, flushed to disk and renamed
(``os.replace``). A lock distinguishes files that are being written from those of killed processes.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

_TEMPORARY = re.compile(r"^\..+\.[0-9a-f]{16}\.partial$")


@contextmanager
def atomic_write(path: str | os.PathLike[str], text: bool = False) -> Iterator[IO[Any]]:
    """Opens a file for writing that appears under its name only if the block succeeds.

    Readers see the previous or the new content, never a part.

    Args:
        path: Target file in an existing directory. A symbolic link is replaced, not followed.
        text: Whether to open for UTF-8 text instead of bytes.

    Yields:
        The open temporary file.

    Raises:
        OSError: If the directory is missing or not writable, or the disk is full.
    """
    target = Path(path)
    file, temporary = _open_locked(target, text)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            # renamed while open: the lock must not end before the temporary name is gone
            os.replace(temporary, target)
    except BaseException:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise
    sync_folder(target.parent)


def atomic_write_text(path: str | os.PathLike[str], content: str) -> None:
    """Writes `content` as UTF-8 with :func:`atomic_write`."""
    with atomic_write(path, text=True) as file:
        file.write(content)


def atomic_write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes `content` with :func:`atomic_write`."""
    with atomic_write(path) as file:
        file.write(content)


def clean_leftovers(folder: str | os.PathLike[str]) -> list[Path]:
    """Removes the temporary files of dead processes in a directory, and returns their paths.

    Files that a process is writing are kept, and so are all files on a file system without locks.
    Subdirectories are not searched. The directory may be missing.
    """
    removed = []
    for path in sorted(Path(folder).glob(".*.partial")):
        if not _TEMPORARY.match(path.name):
            continue
        with suppress(OSError), open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
            removed.append(path)
    return removed


def _open_locked(target: Path, text: bool) -> tuple[IO[Any], Path]:
    """Creates and locks a temporary file beside `target`."""
    while True:
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.partial")
        file: IO[Any] = open(temporary, "x" if text else "xb", encoding="utf-8" if text else None)  # noqa: SIM115
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        # a cleaner may have removed it as a leftover between creation and lock
        if temporary.exists():
            return file, temporary
        file.close()


def sync_folder(folder: Path) -> None:
    """Makes the new name durable, on file systems that can sync a directory."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
