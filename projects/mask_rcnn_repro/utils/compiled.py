"""Functions compiled by Numba where it is installed, and threads that run them.

Numba is optional. `HAVE_NUMBA` is false if it cannot be imported or MASK_RCNN_REPRO_NUMBA=0 is
set, and callers then use plain Python. Importing Numba takes 0.5 s, so it is imported at the first
access of `HAVE_NUMBA`. Read it inside functions, and import modules of compiled functions only if
it is true::

    from mask_rcnn_repro.utils import compiled

    def encode(...):
        if compiled.HAVE_NUMBA:
            from mask_rcnn_repro.evaluation.masks import paste_kernels
            ...

Compiled functions release the GIL and run in Python threads. Numba's own thread pools break after a
fork and under concurrent callers.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

ENVIRONMENT_VARIABLE = "MASK_RCNN_REPRO_NUMBA"

HAVE_NUMBA: bool
"""Whether compiled functions can be used; determined at the first access."""

_CHUNKS_A_THREAD = 4  # items differ in cost
_WANTED = os.environ.get(ENVIRONMENT_VARIABLE, "1") != "0"

logger = logging.getLogger(__name__)

_lock = threading.Lock()
_local = threading.local()
_executor: ThreadPoolExecutor | None = None
_executor_size = 0


def __getattr__(name: str) -> Any:
    if name != "HAVE_NUMBA":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _have_numba()


def _have_numba() -> bool:
    if "HAVE_NUMBA" not in globals():
        globals()["HAVE_NUMBA"] = _WANTED and _importable()
    return bool(globals()["HAVE_NUMBA"])


def _importable() -> bool:
    try:
        import numba  # noqa: F401
    except Exception as error:  # of any type, for example for an unsupported NumPy
        if not (isinstance(error, ModuleNotFoundError) and error.name == "numba"):
            message = "Numba is installed but cannot be imported (%s). Slower code is used."
            logger.warning(message, error)
        return False
    return True


def compiled(**options: Any) -> Callable[[F], F]:
    """Returns a decorator that compiles a function by ``numba.njit`` at its first call.

    Machine code is cached in the package's `__pycache__`, or in the user's cache directory if that
    is not writable. If neither is, each process compiles again. The cache notices changes of the
    function's own file only, not of files of functions that it calls.

    Args:
        options: Options of ``numba.njit`` in addition to ``cache=True, nogil=True``.

    Returns:
        A decorator. Without Numba it returns the function itself, which runs as (slow) Python. The
        result's attribute `is_compiled` is true if it is compiled.
    """

    def decorate(function: F) -> F:
        if not _have_numba():
            function.is_compiled = False  # type: ignore[attr-defined]
            return function
        import numba

        options_here = {"nogil": True, "cache": True, **options}
        try:
            result = numba.njit(**options_here)(function)
        except RuntimeError:  # no directory for the cache
            result = numba.njit(**{**options_here, "cache": False})(function)
        if hasattr(result, "_cache"):
            result._cache = _ForgivingCache(result._cache)
        result.is_compiled = True
        return result

    return decorate


class _ForgivingCache:
    """Numba's cache on disk, without errors for a full disk or a broken file."""

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def load_overload(self, *args: Any) -> Any:
        try:
            return self._cache.load_overload(*args)
        except Exception as error:  # a broken pickle raises errors of any type
            logger.info("Cannot read a compiled function from the cache: %s.", error)
            return None

    def save_overload(self, *args: Any) -> None:
        try:
            self._cache.save_overload(*args)
        except Exception as error:  # it reads the cache too
            logger.info("Cannot write a compiled function to the cache: %s.", error)


def run_in_threads(
    function: Callable[[int, int], Any],
    num_items: int,
    threads: int | None = None,
    min_items: int = 1,
) -> None:
    """Calls ``function(start, stop)`` in threads, for chunks that cover ``range(num_items)``.

    The caller's thread takes part. Free threads take chunks in order. Results do not depend on the
    number of threads if the function treats an item alike in any chunk. A call from within such a
    function runs in the same thread.

    Args:
        function: Releases the GIL (compiled, or mostly NumPy); its result is ignored.
        num_items: Number of items; may be 0.
        threads: `torch.get_num_threads()` by default.
        min_items: The fewest items per thread.

    Raises:
        Exception: The first one of a call, after all threads have stopped.
    """
    if threads is None:
        import torch

        threads = torch.get_num_threads()
    threads = min(threads, num_items // max(1, min_items))
    if threads <= 1 or getattr(_local, "inside", False):
        if num_items > 0:
            function(0, num_items)
        return
    count = min(threads * _CHUNKS_A_THREAD, -(-num_items // max(1, min_items)))
    bounds = [num_items * index // count for index in range(count + 1)]
    chunks = iter(list(itertools.pairwise(bounds)))  # next() of a list's iterator is atomic

    def work() -> None:
        _local.inside = True
        try:
            for start, stop in chunks:
                function(start, stop)
        except BaseException:
            for _ in chunks:  # leaves none for the other threads
                pass
            raise
        finally:
            _local.inside = False

    futures = _submit(work, threads - 1)
    error: BaseException | None = None
    try:
        work()
    except BaseException as raised:
        error = raised
    for future in futures:
        if not future.cancel():  # a thread that is busy elsewhere is not needed
            error = error or future.exception()
    function = lambda start, stop: None  # noqa: E731 - cancelled futures stay queued, and would keep arrays alive
    if error is not None:
        raise error


def _submit(work: Callable[[], None], count: int) -> list[Future[None]]:
    global _executor, _executor_size
    with _lock:
        if _executor is None or _executor_size < count:
            if _executor is not None:
                _executor.shutdown(wait=False)  # completes submitted work
            _executor = ThreadPoolExecutor(count, thread_name_prefix="compiled")
            _executor_size = count
        return [_executor.submit(work) for _ in range(count)]


def _forget_threads() -> None:
    """Resets the state after a fork: threads do not survive, and the lock may be held."""
    global _executor, _executor_size, _lock
    _executor, _executor_size, _lock = None, 0, threading.Lock()
    _local.inside = False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)
