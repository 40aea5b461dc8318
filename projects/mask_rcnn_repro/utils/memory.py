"""Running out of memory: telling it from other errors, and trying again with less at a time."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import TypeVar

import torch

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_MESSAGES = ("not enough memory", "can't allocate memory", "Insufficient memory", "out of memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory of a GPU or of the machine has run out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # PyTorch's allocator on the CPU and OpenCV's have no class of their own
    return isinstance(error, Exception) and any(text in str(error) for text in _MESSAGES)


def in_parts(work: Callable[[int, int], Result], count: int, most: int, what: str) -> list[Result]:
    """Does work in parts, which are halved until they fit into memory.

    Args:
        work: does its part of the items, from a first one to before a last one.
        count: items that there are; with none, nothing is done.
        most: items at a time in the beginning.
        what: the items, for the log.

    Returns:
        What `work` returned, part by part.

    Raises:
        Exception: what `work` raised, if that was not about memory or happened with a single item.
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
        # outside of the handler: an error holds the frames that hold the memory
        free_memory()
        most = size // 2
        logger.warning("Out of memory with %d %s at a time; going on with %d.", size, what, most)
    return results


def free_memory() -> None:
    """Gives back what nothing needs any more."""
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
