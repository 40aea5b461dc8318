"""Batches predicted several at a time by threads, their results in order.

A small image does not keep two threads busy all the time: they meet after each layer, and what runs
in Python runs in one of them. Two images, a thread each, do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

import torch

from mask_rcnn_repro.utils.out_of_memory import is_out_of_memory

Batch = Any
Result = TypeVar("Result")


def in_order(
    batches: Iterator[Batch],
    predict: Callable[[Batch], Result],
    predict_alone: Callable[[Batch], Result],
    at_once: int,
    loaded: Callable[[str], None],
) -> Generator[tuple[int, Batch, Result]]:
    """Predicts on batches, up to `at_once` at the same time.

    One batch more is in work or waiting, so that no thread is idle while the caller does something
    with a result. With `at_once` 1 everything happens in the caller's thread, one after the other.
    Close the generator to stop early: threads are waited for, and PyTorch's number is restored.

    Args:
        batches: are loaded in the caller's thread. What forks processes has done so by now.
        predict: runs in threads of their own; sets modes that belong to a thread (gradients,
            autocast) by itself.
        predict_alone: what to do when memory runs out, after all others have finished.
        at_once: threads; each gets its share of PyTorch's.
        loaded: is called with "data" after each batch was loaded.

    Yields:
        Number from 0, batch, and result, in the order of the batches.

    Raises:
        Exception: the first that a prediction raised, in the order of the batches; none is
            running any more by then.
    """
    if at_once <= 1:
        for number, batch in enumerate(batches):
            loaded("data")
            yield number, batch, _or_alone(predict, predict_alone, batch)
        return
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(
        at_once,
        thread_name_prefix="predict",
        initializer=torch.set_num_threads,  # of that thread, and of threads yet to come
        initargs=(max(1, threads // at_once),),
    )
    pending: deque[tuple[Batch, Future[Result]]] = deque()
    number = 0
    try:
        for batch in batches:
            loaded("data")
            pending.append((batch, pool.submit(predict, batch)))
            if len(pending) > at_once:
                yield number, *_first(pending, predict_alone)
                number += 1
        while pending:
            yield number, *_first(pending, predict_alone)
            number += 1
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(threads)


def _first(
    pending: deque[tuple[Batch, Future[Result]]], predict_alone: Callable[[Batch], Result]
) -> tuple[Batch, Result]:
    batch, future = pending.popleft()
    try:
        return batch, future.result()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    del future  # its error holds the frames that hold the memory
    wait([other for _, other in pending])
    return batch, predict_alone(batch)


def _or_alone(
    predict: Callable[[Batch], Result], predict_alone: Callable[[Batch], Result], batch: Batch
) -> Result:
    try:
        return predict(batch)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    return predict_alone(batch)
