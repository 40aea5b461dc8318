"""Predicts batches ahead, or several concurrently, and yields the results in order.

On a CPU a small image does not keep two threads busy: they synchronize after each layer, and Python
code runs in one of them only. Two images with one thread each keep both busy. On a GPU one thread
predicts while the caller's encodes the masks of the image before.
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

    One more batch is submitted in advance, which keeps all threads busy while the caller handles a
    result. If `at_once` is 0, the caller's thread does everything. Close the generator to stop
    early: it waits for the threads and restores PyTorch's number of threads.

    Args:
        batches: Are loaded in the caller's thread. Worker processes must be forked already.
        predict: Runs in other threads. It sets modes that belong to a thread (gradients, autocast)
            itself.
        predict_alone: Runs if memory runs out, after all other predictions have finished.
        at_once: Number of threads. Each gets its share of PyTorch's threads.
        loaded: Is called with "data" after each batch was loaded.

    Yields:
        Number from 0, batch, and result, in the order of the batches.

    Raises:
        Exception: The first one that a prediction raised, in the order of the batches. No
            prediction is running then.
    """
    if at_once < 1:
        for number, batch in enumerate(batches):
            loaded("data")
            yield number, batch, _or_alone(predict, predict_alone, batch)
        return
    threads = torch.get_num_threads()
    on_gpu = torch.cuda.is_available() and torch.cuda.is_initialized()
    pool = ThreadPoolExecutor(
        at_once,
        thread_name_prefix="predict",
        initializer=_begin,
        initargs=(max(1, threads // at_once), on_gpu and torch.cuda.current_device()),
    )
    pending: deque[tuple[int, Batch, Future[Result]]] = deque()
    try:
        for number, batch in enumerate(batches):
            loaded("data")
            pending.append((number, batch, pool.submit(predict, batch)))
            if len(pending) > at_once:
                yield _first(pending, predict_alone)
        while pending:
            yield _first(pending, predict_alone)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(threads)


def _begin(threads: int, gpu: int | bool) -> None:
    torch.set_num_threads(threads)  # of this thread, and of threads yet to come
    if gpu is not False:
        torch.cuda.set_device(gpu)  # a thread begins with the first one


def _first(
    pending: deque[tuple[int, Batch, Future[Result]]], predict_alone: Callable[[Batch], Result]
) -> tuple[int, Batch, Result]:
    number, batch, future = pending.popleft()
    try:
        return number, batch, future.result()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    del future  # its error holds the frames that hold the memory
    wait([other for *_, other in pending])
    return number, batch, predict_alone(batch)


def _or_alone(
    predict: Callable[[Batch], Result], predict_alone: Callable[[Batch], Result], batch: Batch
) -> Result:
    try:
        return predict(batch)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    return predict_alone(batch)
