"""Processes find those that were started with them in a store that holds what others left."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import pytest
import torch.distributed as dist

from mask_rcnn_repro.errors import UserError
from mask_rcnn_tools.launch.fresh_store import fresh_store


def start(store, ranks, world_size, seconds=20.0):
    """Threads in place of processes; what each has found, by rank."""
    found = {}

    def process(rank):
        try:
            found[rank] = fresh_store(store, rank, world_size, timedelta(seconds=seconds))
        except UserError as error:
            found[rank] = error

    threads = []
    for rank, delay in ranks:
        time.sleep(delay)
        threads.append(threading.Thread(target=process, args=[rank]))
        threads[-1].start()
    for thread in threads:
        thread.join()
    return found


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_each_start_has_a_corner_of_its_own(order):
    store = dist.HashStore()
    for attempt in range(3):
        found = start(store, [(rank, 0.05) for rank in order], 3)
        assert not found[0].check(["address"])  # nothing of the attempts before
        found[0].set("address", str(attempt))
        assert [found[r].get("address").decode() for r in range(3)] == [str(attempt)] * 3


def test_a_start_that_did_not_come_about_is_forgotten():
    store = dist.HashStore()
    found = start(store, [(0, 0), (2, 0)], 3, seconds=0.2)  # the second was killed
    assert isinstance(found[0], UserError) and "1 of 3 processes" in str(found[0])
    assert isinstance(found[2], UserError)
    found = start(store, [(1, 0), (2, 0.1), (0, 0.1)], 3)
    found[0].set("x", "new")
    assert found[1].get("x") == found[2].get("x") == b"new"
