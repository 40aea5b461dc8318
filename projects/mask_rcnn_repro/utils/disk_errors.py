"""Disks that are full, or that fail: what went wrong, told as the system told it."""

from __future__ import annotations

import errno
import os
import shutil
from typing import IO, Any

import torch

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def full_storage(error: BaseException | None) -> OSError | None:
    """The error of a full disk, a used-up quota or a file size limit behind an error, if any."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, OSError) and error.errno in _FULL:
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def free_megabytes(folder: str | os.PathLike[str]) -> int:
    """Free space on the disk of a folder."""
    return shutil.disk_usage(folder).free // 2**20


def save_tensors(file: IO[bytes], data: dict[str, Any]) -> None:
    """`torch.save`, which by itself hides why a file could not be written.

    Raises:
        OSError: as the file raised it.
    """
    watched = _Watched(file)
    try:
        torch.save(data, watched)
    except Exception:
        if watched.error is not None:
            raise watched.error from None
        raise


class _Watched:
    """A file that remembers what went wrong."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        try:
            self._file.flush()
        except OSError as error:
            self.error = error
            raise
