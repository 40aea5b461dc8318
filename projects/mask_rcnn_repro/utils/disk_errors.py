"""Errors of full or failing disks, as the system reported them."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from typing import IO, Any

import torch

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def full_storage(error: BaseException | None) -> OSError | None:
    """Returns the error of a full disk, quota or file size limit that caused an error, if any."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, OSError) and error.errno in _FULL:
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def free_megabytes(folder: str | os.PathLike[str]) -> int:
    """Free space on the disk of a directory, in MiB."""
    return shutil.disk_usage(folder).free // 2**20


def save_tensors(file: IO[bytes], data: dict[str, Any]) -> None:
    """Calls `torch.save`, and raises the OSError of the file, which `torch.save` hides."""
    watched = _Watched(file)
    try:
        torch.save(data, watched)
    except Exception:
        if watched.error is not None:
            raise watched.error from None
        raise


class _Watched:
    """A file that stores the error of a failed write."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        return self._call(self._file.write, data)

    def flush(self) -> None:
        self._call(self._file.flush)

    def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return function(*args)
        except OSError as error:
            self.error = error
            raise
