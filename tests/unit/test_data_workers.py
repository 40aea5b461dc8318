"""How many worker processes a loader starts."""

from __future__ import annotations

import logging

import pytest

from mask_rcnn_repro.data.loading import workers
from mask_rcnn_repro.data.loading.loader import build_test_loader


@pytest.fixture
def eight_cpus(monkeypatch):
    monkeypatch.setattr(workers, "usable_cpus", lambda: 8)


@pytest.mark.parametrize(
    ("asked", "processes", "given"),
    [(0, 1, 0), (4, 1, 4), (8, 1, 8), (9, 1, 8), (4, 4, 2), (2, 16, 1), (0, 16, 0)],
)
def test_share_of_a_process(eight_cpus, monkeypatch, caplog, asked, processes, given):
    monkeypatch.setattr(workers.comm, "get_local_size", lambda: processes)
    with caplog.at_level(logging.INFO, logger=workers.__name__):
        assert workers.loader_workers(asked) == given
    said = [r.getMessage() for r in caplog.records]
    assert bool(said) == (asked != given)
    assert all(f"num_workers={asked}" in text and f" {given} worker" in text for text in said)


def test_loaders_ask(monkeypatch):
    monkeypatch.setattr(workers, "usable_cpus", lambda: 1)
    assert build_test_loader([{"x": 1}], lambda record: record, num_workers=5).num_workers == 1
