"""A key-value store for the processes that `torchrun` started together.

`torchrun` keeps one store for all its restarts. It still holds what earlier processes wrote, such
as their addresses. The processes of one start therefore exchange random tokens and use a part of
the store that is named after the token of the first one. The restart count is no such name, because
hosts that join later count differently.
"""

from __future__ import annotations

import json
import secrets
import time
from datetime import timedelta

import torch.distributed as dist

from mask_rcnn_repro.errors import UserError

_PREFIX = "mask_rcnn_repro/start"
_POLL_SECONDS = 0.02


def fresh_store(store: dist.Store, rank: int, world_size: int, timeout: timedelta) -> dist.Store:
    """Returns the part of a store that belongs to this start of all processes.

    Args:
        store: Store that all processes reach. May hold values of earlier processes.
        rank: Rank of this process.
        world_size: Number of processes. All of them call this function.
        timeout: Time to wait for the others.

    Raises:
        UserError: A process did not arrive in time.
    """
    own, deadline = secrets.token_hex(8), time.monotonic() + timeout.total_seconds()
    if rank == 0:
        store.set(f"{_PREFIX}/first", own)
        here = {0: own}
        while len(here) < world_size:
            for other in range(1, world_size):
                if other not in here and store.check([f"{_PREFIX}/{own}/{other}"]):
                    here[other] = store.get(f"{_PREFIX}/{own}/{other}").decode()
            _wait(deadline, f"{world_size - len(here)} of {world_size} processes")
        store.set(f"{_PREFIX}/{own}/all", json.dumps(list(here.values())))
        return dist.PrefixStore(f"{_PREFIX}/{own}", store)
    answered = ""
    while True:
        # the token may be of an earlier start, whose list lacks this process
        first = store.get(f"{_PREFIX}/first").decode() if store.check([f"{_PREFIX}/first"]) else ""
        if first and first != answered:
            store.set(f"{_PREFIX}/{first}/{rank}", own)
            answered = first
        complete = f"{_PREFIX}/{answered}/all"
        if answered and store.check([complete]) and own in json.loads(store.get(complete)):
            return dist.PrefixStore(f"{_PREFIX}/{answered}", store)
        _wait(deadline, "the first process")


def _wait(deadline: float, whom: str) -> None:
    if time.monotonic() > deadline:
        raise UserError(
            f"{whom} did not join this run in time. Read the output of the other processes, and "
            "check that all hosts were started and reach each other."
        )
    time.sleep(_POLL_SECONDS)
