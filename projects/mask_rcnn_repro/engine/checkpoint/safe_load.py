"""Loading checkpoints without running code that they may contain.

A pickle is a program: each global that it names is imported and may be called. Both loaders here
allow only the globals of weights. Stand-ins build the arrays instead of NumPy's own helpers,
because ``dtype.__setstate__`` does not check the memory layout.
"""

from __future__ import annotations

import io
import os
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from mask_rcnn_repro.errors import CheckpointError, DamagedCheckpointError

_ALLOWED = "tensors, NumPy arrays and numbers, strings, and plain containers"


def safe_torch_load(path: str | os.PathLike[str], mmap: bool = False) -> Any:
    """Loads a ``torch.save`` file with ``weights_only=True`` on the CPU.

    NumPy arrays and scalars are accepted besides what PyTorch accepts.

    Args:
        path: A local file.
        mmap: Whether to map the tensors instead of reading them. Checksums are then not verified.

    Raises:
        CheckpointError: The file is missing, damaged, or names a global that is not allowed.
    """
    _require_file(path)
    try:
        if not mmap:
            _verify_archive(path)
        stand_ins = [(stand_in, name) for name, stand_in in _torch_globals().items()]
        with torch.serialization.safe_globals(stand_ins):
            loaded = torch.load(
                path, map_location="cpu", weights_only=True, mmap=mmap and zipfile.is_zipfile(path)
            )
        return _plain(loaded)
    except CheckpointError:
        raise
    except Exception as error:
        raise _translated(path, error) from error


def safetensors_load(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """Loads the tensors of a ``.safetensors`` file, which holds no code, on the CPU.

    Raises:
        CheckpointError: The file is missing or damaged.
    """
    _require_file(path)
    try:
        return load_file(path)
    except Exception as error:
        raise _translated(path, error) from error


def safe_pickle_load(path: str | os.PathLike[str]) -> Any:
    """Loads a pickle of arrays and plain containers (Detectron and Detectron2 ``.pkl`` weights).

    Also accepts tensors. Reads strings of Python 2 as Latin-1, which the bytes of arrays need.

    Raises:
        CheckpointError: The file is missing, damaged, or names a global that is not allowed.
    """
    _require_file(path)
    try:
        with open(path, "rb") as file:
            return _plain(_RestrictedUnpickler(file, encoding="latin1").load())
    except CheckpointError:
        raise
    except Exception as error:
        raise _translated(path, error) from error


class _ForbiddenGlobal(pickle.UnpicklingError):
    """A pickle asked for a global outside the list."""


class _Callable:
    """A callable whose attributes, such as defaults, a pickle cannot set by the BUILD opcode."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a pickle may not change a function")


class _Dtype:
    """Stands in for a NumPy dtype of numbers or strings until the array is built."""

    def __init__(self, spec: Any, align: Any = False, copy: Any = False) -> None:
        if not isinstance(spec, str | bytes):
            raise pickle.UnpicklingError(f"array type {spec!r} is not allowed")
        name = spec.decode("ascii") if isinstance(spec, bytes) else spec
        self.value = np.dtype(name)
        if self.value.kind not in "biufcSU":
            raise pickle.UnpicklingError(f"array type {name!r} is not allowed: only plain numbers")

    def __setstate__(self, state: Any) -> None:
        # (version, byte order, subdtype, names, fields, item size, alignment, flags, ...)
        if any(part is not None for part in state[2:5]):
            raise pickle.UnpicklingError("structured array types are not allowed")
        self.value = self.value.newbyteorder(state[1])


class _Array(np.ndarray):
    """An array under construction; becomes a plain one in :func:`_plain`."""

    def __setstate__(self, state: Any) -> None:
        version, shape, dtype, is_fortran, data = state
        # NumPy checks the length of the data against shape and type
        super().__setstate__((version, shape, _unwrap(dtype), is_fortran, data))


def _unwrap(dtype: Any) -> np.dtype:
    if not isinstance(dtype, _Dtype):
        raise pickle.UnpicklingError("an array must name a plain type")
    return dtype.value


def _reconstruct(subtype: Any, shape: Any, dtype: Any) -> _Array:
    """``numpy.core.multiarray._reconstruct``: an empty array that ``__setstate__`` fills."""
    return np.empty(0, dtype=np.int8).view(_Array)


def _frombuffer(buffer: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    """``numpy.core.numeric._frombuffer``, used by pickle protocol 5."""
    return np.frombuffer(buffer, dtype=_unwrap(dtype)).reshape(shape, order=order).copy("K")


def _scalar(dtype: Any, data: Any) -> Any:
    """``numpy.core.multiarray.scalar``."""
    raw = data.encode("latin1") if isinstance(data, str) else data
    (value,) = np.frombuffer(raw, dtype=_unwrap(dtype))
    return value


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """``_codecs.encode``, which protocol 2 uses for bytes; no other codec."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"encoding {encoding!r} is not allowed")
    return text.encode("latin1")


def _bytes(*args: Any) -> bytes:
    """``bytes``, but not of a length alone, which would take memory without end."""
    if args and not isinstance(args[0], str | bytes | list | tuple):
        raise pickle.UnpicklingError("bytes are made of bytes or text only")
    return bytes(*args)


def _bytearray(*args: Any) -> bytearray:
    """``bytearray``, likewise."""
    return bytearray(_bytes(*args))


def _load_storage(data: bytes) -> Any:
    """``torch.storage._load_from_bytes``, which by itself would load anything."""
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


_NUMPY_FUNCTIONS: dict[str, Callable[..., Any]] = {
    f"{package}.{name}": function
    for package in ("numpy.core", "numpy._core")
    for name, function in (
        ("multiarray._reconstruct", _reconstruct),
        ("multiarray.scalar", _scalar),
        ("numeric._frombuffer", _frombuffer),
    )
}


def _torch_globals() -> dict[str, Any]:
    """Returns what PyTorch's unpickler accepts besides its own list. It cannot change classes."""
    return {
        **_NUMPY_FUNCTIONS,
        "numpy.ndarray": _Array,
        "numpy.dtype": _Dtype,
        "builtins.bytes": _bytes,  # protocol 2 writes b"" as a call of it
    }


def _pickle_globals() -> dict[str, Any]:
    """Returns the globals of :class:`_RestrictedUnpickler`, which BUILD cannot change."""
    functions: dict[str, Callable[..., Any]] = {
        **_NUMPY_FUNCTIONS,
        "numpy.ndarray": _reconstruct,  # only ever an argument, which is ignored
        "numpy.dtype": _Dtype,
        "_codecs.encode": _encode,
        "torch._utils._rebuild_tensor_v2": torch._utils._rebuild_tensor_v2,
        "torch._utils._rebuild_parameter": torch._utils._rebuild_parameter,
        "torch.storage._load_from_bytes": _load_storage,
    }
    allowed: dict[str, Any] = {name: _Callable(f) for name, f in functions.items()}
    # attributes of types written in C cannot be set
    plain = (set, frozenset, complex, list, dict, tuple, int, float, bool, str)
    for module in ("builtins", "__builtin__"):
        allowed.update({f"{module}.{kind.__name__}": kind for kind in plain})
        allowed[f"{module}.bytes"] = _Callable(_bytes)
        allowed[f"{module}.bytearray"] = _Callable(_bytearray)
    allowed["collections.OrderedDict"] = OrderedDict
    return allowed


_PICKLE_GLOBALS = _pickle_globals()


class _RestrictedUnpickler(pickle.Unpickler):
    """An unpickler that accepts only the listed globals."""

    def find_class(self, module: str, name: str) -> Any:
        """Looks the global up in the list instead of importing it."""
        full_name = f"{module}.{name}"
        if full_name not in _PICKLE_GLOBALS:
            raise _ForbiddenGlobal(full_name)
        return _PICKLE_GLOBALS[full_name]


def _plain(value: Any, seen: dict[int, Any] | None = None) -> Any:
    """Replaces arrays under construction with plain ones, inside dicts, lists and tuples."""
    seen = {} if seen is None else seen
    if isinstance(value, _Array):
        return value.view(np.ndarray)
    if isinstance(value, _Dtype):
        return value.value
    if isinstance(value, _Callable):
        raise pickle.UnpicklingError("a function stands where a value is expected")
    if id(value) in seen:
        return seen[id(value)]
    if isinstance(value, dict):
        seen[id(value)] = value
        for key in value:
            value[key] = _plain(value[key], seen)
    elif isinstance(value, list):
        seen[id(value)] = value
        value[:] = [_plain(item, seen) for item in value]
    elif type(value) is tuple:
        # also stored: nested tuples that repeat a tuple would take exponential time
        place = id(value)
        seen[~place] = value  # alive, or its id could become another's
        value = seen[place] = tuple(_plain(item, seen) for item in value)
    return value


def _require_file(path: str | os.PathLike[str]) -> None:
    if not Path(path).is_file():
        raise CheckpointError(
            f"Checkpoint {os.fspath(path)!r} does not exist. Give the path of an existing .pth, "
            ".pyth or .pkl file."
        )
    if Path(path).stat().st_size == 0:
        raise DamagedCheckpointError(
            f"Checkpoint {os.fspath(path)!r} is empty. Give another file, or fetch it again."
        )


def _verify_archive(path: str | os.PathLike[str]) -> None:
    """Checks the checksums of a zip archive, which is what ``torch.save`` writes."""
    if not zipfile.is_zipfile(path):
        return  # the older format has no checksums
    with zipfile.ZipFile(path) as archive:
        total = sum(part.file_size for part in archive.infolist())
        if total > Path(path).stat().st_size:
            raise DamagedCheckpointError(
                f"Checkpoint {os.fspath(path)!r} was refused: its parts are larger than the file, "
                "packed or overlapping as torch.save never writes them. Write it again with "
                "torch.save."
            )
        damaged = archive.testzip()
        # PyTorch treats a part with this bit as a directory and leaves its tensor uninitialized
        folders = [part.filename for part in archive.infolist() if part.external_attr & 0x10]
    damaged = damaged or next(iter(folders), None)
    if damaged is not None:
        raise DamagedCheckpointError(
            f"Checkpoint {os.fspath(path)!r} is damaged: its part {damaged!r} does not fit its "
            "checksum or header. Fetch or write it again."
        )


def _translated(path: str | os.PathLike[str], error: Exception) -> CheckpointError:
    """Turns any error of a loader into a CheckpointError."""
    found = re.search(r"GLOBAL (\S+) (?:was not an allowed|whose module)", str(error))
    wanted = found.group(1) if found is not None else None
    if isinstance(error, _ForbiddenGlobal):
        wanted = str(error)
    if wanted is not None:
        return CheckpointError(
            f"Checkpoint {os.fspath(path)!r} was refused: it asks for the global {wanted!r}, and "
            f"loading it could run code. Allowed are {_ALLOWED}. Nothing of it was executed. If "
            "you trust its origin, load it by hand and save its state dict alone."
        )
    # PyTorch's message begins with advice to disable the safety
    reason = str(error).rpartition("WeightsUnpickler error:")[2].strip()
    first_line = (reason.splitlines() or [""])[0]
    return DamagedCheckpointError(
        f"Checkpoint {os.fspath(path)!r} cannot be read: it is damaged, cut short, or not a "
        f"checkpoint of {_ALLOWED} ({type(error).__name__}: {first_line[:200]}). Fetch or write "
        "it again."
    )
