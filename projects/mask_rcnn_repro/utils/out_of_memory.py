"""Detection of out-of-memory errors, and retries in smaller parts."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import TypeVar

import torch

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_MESSAGES = (
    *("not enough memory", "can't allocate memory", "Insufficient memory", "out of memory"),
    *("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"),
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is that of exhausted memory, of a GPU or of the machine."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # those of PyTorch's CPU allocator, OpenCV, cuBLAS and cuDNN have no class of their own
    return isinstance(error, Exception) and any(text in str(error) for text in _MESSAGES)


def in_parts(work: Callable[[int, int], Result], count: int, most: int, what: str) -> list[Result]:
    """Processes items in parts, which are halved until they fit into memory.

    Args:
        work: Called as ``work(start, stop)`` for the items [start, stop).
        count: Number of items; may be 0.
        most: Number of items of the first part.
        what: Name of the items, for the log.

    Returns:
        Results of `work`, part by part.

    Raises:
        Exception: From `work`, if it is not a memory error or the part is a single item.
    """
    results: list[Result] = []
    done = 0
    while done < count:
        size = min(most, count - done)
        try:
            results.append(work(done, done + size))
            done += size
            continue
        except Exception as error:
            if not is_out_of_memory(error) or size == 1:
                raise
        # outside the handler, since the error keeps the frames that hold the memory
        free_memory()
        most = size // 2
        logger.warning("Out of memory with %d %s at a time; trying %d.", size, what, most)
    return results


def free_memory() -> None:
    """Releases unused memory."""
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
