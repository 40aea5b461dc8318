"""Functions compiled by Numba where it is installed, and threads that run them.

Numba is optional: where it cannot be imported, or the environment sets MASK_RCNN_REPRO_NUMBA=0,
`HAVE_NUMBA` is false and callers take their plain path. Importing Numba takes half a second, so
`HAVE_NUMBA` is looked up when first asked for: ask inside functions, as
``compiled_module.HAVE_NUMBA``, and import a module of compiled functions only after a yes::

    from mask_rcnn_repro.utils import compiled

    def encode(...):
        if compiled.HAVE_NUMBA:
            from mask_rcnn_repro.evaluation.masks import paste_kernels as mask_run_kernels
            ...

Compiled functions release the GIL, and threads here are plain Python threads: Numba's own thread
pools break after a fork and under concurrent callers.
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
"""Whether compiled functions can be used; found out when first read."""

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
    except ModuleNotFoundError as error:
        if error.name != "numba":
            logger.warning("Numba is installed but cannot be imported (%s): slower paths.", error)
        return False
    except Exception as error:  # a NumPy that it does not know, or a library that lacks
        logger.warning("Numba is installed but cannot be imported (%s): slower paths.", error)
        return False
    return True


def compiled(**options: Any) -> Callable[[F], F]:
    """Compiles a function by ``numba.njit``, when it is first called.

    The machine code is kept in the package's `__pycache__`, or in the user's cache folder where
    that cannot be written; where neither can, it is compiled again in each process. What a
    function calls must stand in its own file: the cache notices changes there only.

    Args:
        options: for ``numba.njit``, on top of ``cache=True, nogil=True``.

    Returns:
        A decorator. Without Numba it returns the function itself, which then runs as (slow)
        Python. The attribute `is_compiled` of the result tells which.
    """

    def decorate(function: F) -> F:
        if not _have_numba():
            function.is_compiled = False  # type: ignore[attr-defined]
            return function
        import numba

        options_here = {"nogil": True, "cache": True, **options}
        try:
            result = numba.njit(**options_here)(function)
        except RuntimeError:  # no folder for the cache
            result = numba.njit(**{**options_here, "cache": False})(function)
        if hasattr(result, "_cache"):
            result._cache = _ForgivingCache(result._cache)
        result.is_compiled = True
        return result

    return decorate


class _ForgivingCache:
    """Numba's cache on disk; a full disk or a broken file must not end a run."""

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def load_overload(self, *args: Any) -> Any:
        try:
            return self._cache.load_overload(*args)
        except Exception as error:  # reading a broken pickle raises errors of any kind
            logger.info("Compiled function not read from the cache: %s.", error)
            return None

    def save_overload(self, *args: Any) -> None:
        try:
            self._cache.save_overload(*args)
        except Exception as error:  # it reads, too
            logger.info("Compiled function not kept in the cache: %s.", error)


def run_in_threads(
    function: Callable[[int, int], Any],
    num_items: int,
    threads: int | None = None,
    min_items: int = 1,
) -> None:
    """Calls ``function(start, stop)`` for chunks that cover ``range(num_items)``.

    The caller's thread takes part. Chunks are taken in order, by whichever thread is free, so the
    function must do the same for an item whatever chunk it is in; then results do not depend on
    the number of threads. Called from within such a function, it runs in the same thread.

    Args:
        function: releases the GIL (compiled, or mostly NumPy); returns nothing that is wanted.
        num_items: may be 0, then nothing is called.
        threads: `torch.get_num_threads()` by default.
        min_items: fewest items that are worth a thread's while.

    Raises:
        Exception: the first that a call raised, after all threads have stopped.
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
            for _ in chunks:  # nothing more for the others
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
        if not future.cancel():  # busy elsewhere: the chunks are done without it
            error = error or future.exception()
    function = _do_nothing  # cancelled futures stay queued a while, and would keep arrays alive
    if error is not None:
        raise error


def _do_nothing(start: int, stop: int) -> None:
    """Takes the place of a function that is done."""


def _submit(work: Callable[[], None], count: int) -> list[Future[None]]:
    global _executor, _executor_size
    with _lock:
        if _executor is None or _executor_size < count:
            if _executor is not None:
                _executor.shutdown(wait=False)  # finishes what it was given
            _executor = ThreadPoolExecutor(count, thread_name_prefix="compiled")
            _executor_size = count
        return [_executor.submit(work) for _ in range(count)]


def _forget_threads() -> None:
    """Threads do not survive a fork, and the lock may have been held."""
    global _executor, _executor_size, _lock
    _executor, _executor_size, _lock = None, 0, threading.Lock()
    _local.inside = False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)
