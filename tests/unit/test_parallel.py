"""Work in several processes: order, errors, and ends that do not hang."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Iterator

import pytest

from mask_rcnn_embedded.errors import UserError
from mask_rcnn_embedded.parallel import map_in_processes


def _square(number: int) -> int:
    return number * number


def _fail_at_three(number: int) -> int:
    if number == 3:
        raise LookupError("three")
    return number


def _kill_at_three(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.fixture
def sigterm_is_ignored() -> Iterator[None]:
    """In Python, as training does while it saves; forked processes inherit it."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(("tasks", "workers"), [(0, 2), (1, 2), (50, 2), (50, 3)])
def test_results_in_the_order_of_tasks(tasks: int, workers: int) -> None:
    found = list(map_in_processes(_square, range(tasks), workers, chunksize=4))
    assert found == [n * n for n in range(tasks)]
    assert multiprocessing.active_children() == []


@pytest.mark.timeout(60)
@pytest.mark.usefixtures("sigterm_is_ignored")
def test_an_error_ends_the_processes() -> None:
    for _ in range(30):  # multiprocessing.Pool hangs within ten, as it ends processes just forked
        with pytest.raises(LookupError, match="three"):
            list(map_in_processes(_fail_at_three, [3, 4, 5], 2, chunksize=4))
    assert multiprocessing.active_children() == []


@pytest.mark.timeout(60)
@pytest.mark.usefixtures("sigterm_is_ignored")
def test_an_iterator_that_is_closed_ends_the_processes() -> None:
    with contextlib.closing(map_in_processes(_square, range(100), 2, chunksize=1)) as results:
        assert next(results) == 0
    assert multiprocessing.active_children() == []


@pytest.mark.timeout(60)
def test_a_killed_process_is_an_error() -> None:
    with pytest.raises(UserError, match="One of 2 processes was killed"):
        list(map_in_processes(_kill_at_three, range(100), 2, chunksize=1))
    assert multiprocessing.active_children() == []
