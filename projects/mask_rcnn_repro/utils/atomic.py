"""Files that are either wholly there or not there at all, whatever kills the writing process.

The content goes to a temporary file in the target's folder, is flushed to the disk, and takes the
target's name in one step (``os.replace``). The temporary file carries a recognisable name and is
locked while its writer lives, so that leftovers of killed processes can be told apart from files
that another process is writing right now.
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
    """Opens a file for writing that appears under its name only when the block ends well.

    A reader sees the previous content, or the new content, never a part. If the block raises, the
    target stays as it was and the temporary file is removed.

    Args:
        path: where the content shall appear; its folder must exist. A symbolic link is replaced,
            not followed.
        text: open for UTF-8 text instead of bytes.

    Yields:
        The open temporary file.

    Raises:
        OSError: the folder is missing or not writable, or the disk is full.
    """
    target = Path(path)
    file, temporary = _open_locked(target, text)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            # Renamed while still open: the lock ends only after the temporary name is gone.
            os.replace(temporary, target)
    except BaseException:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise
    _sync_folder(target.parent)


def atomic_write_text(path: str | os.PathLike[str], content: str) -> None:
    """Writes `content` as UTF-8 in one step; see :func:`atomic_write`."""
    with atomic_write(path, text=True) as file:
        file.write(content)


def atomic_write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes `content` in one step; see :func:`atomic_write`."""
    with atomic_write(path) as file:
        file.write(content)


def is_temporary(path: str | os.PathLike[str]) -> bool:
    """Whether the file name is that of a temporary file of :func:`atomic_write`."""
    return _TEMPORARY.match(Path(path).name) is not None


def clean_leftovers(folder: str | os.PathLike[str]) -> list[Path]:
    """Removes the temporary files in `folder` whose writers are dead.

    Files that a living process is writing are left alone, as are files whose lock cannot be asked
    for (a file system without locks).

    Args:
        folder: where to look, not below; may be missing.

    Returns:
        What was removed.
    """
    removed = []
    candidates = sorted(Path(folder).iterdir()) if Path(folder).is_dir() else []
    for path in filter(is_temporary, candidates):
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
        # Between creation and lock a cleaner may have taken the file for a leftover.
        if temporary.exists():
            return file, temporary
        file.close()


def _sync_folder(folder: Path) -> None:
    """Makes the new name durable; file systems that cannot sync a folder are let off."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
