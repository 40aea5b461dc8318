"""A store for the processes that `torchrun` has started together, and no others before them.

`torchrun` keeps one store for all of its restarts, with what earlier processes wrote in it: the
addresses of dead ones, say, which new ones would try to reach. So processes first find out who has
been started with them, by tokens that nobody had before, and use a corner of the store that carries
the first one's token. Counting restarts would not do: hosts that join later count differently.
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
        store: that all processes reach; may hold what others have left.
        rank: of this process.
        world_size: number of processes; all call this function.
        timeout: how long to wait for the others.

    Raises:
        UserError: Some process has not come in time.
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
    told = ""
    while True:
        # the first one may be of an earlier start: then its list does not have this process
        first = store.get(f"{_PREFIX}/first").decode() if store.check([f"{_PREFIX}/first"]) else ""
        if first and first != told:
            store.set(f"{_PREFIX}/{first}/{rank}", own)
            told = first
        complete = f"{_PREFIX}/{told}/all"
        if told and store.check([complete]) and own in json.loads(store.get(complete)):
            return dist.PrefixStore(f"{_PREFIX}/{told}", store)
        _wait(deadline, "the first process")


def _wait(deadline: float, whom: str) -> None:
    if time.monotonic() > deadline:
        raise UserError(
            f"{whom} did not come to the start of this run in time. See what the others say, and "
            "whether all hosts were started and reach each other."
        )
    time.sleep(_POLL_SECONDS)
