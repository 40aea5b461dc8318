"""A loop over images ends together with the others', or says that they are lost."""

from __future__ import annotations

from datetime import timedelta

import pytest
import torch.distributed as dist

from mask_rcnn_repro.utils import interruption
from mask_rcnn_repro.utils.interruption import Phase


@pytest.fixture
def store(monkeypatch):
    """Of two processes, of which this is one."""
    made = dist.HashStore()
    made.set_timeout(timedelta(seconds=0.3))
    monkeypatch.setattr(interruption, "_are_several", lambda: True)
    monkeypatch.setattr(interruption.comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist.distributed_c10d, "_get_default_store", lambda: made)
    return made


def test_a_process_that_never_comes_is_not_waited_for_without_end(store):
    with pytest.raises(ConnectionError, match="1 of 2 processes"), Phase():
        pass


def test_all_come(store):
    with Phase() as phase:
        store.add(f"{phase._key}/arrived", 1)  # the other one
