"""How many worker processes a loader starts."""

from __future__ import annotations

import logging
import os

import pytest

from mask_rcnn_repro.data.loading import workers
from mask_rcnn_repro.data.loading.loader import build_test_loader


@pytest.fixture
def eight_cpus(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(workers, "_QUOTA", tmp_path / "cpu.max")
    return tmp_path / "cpu.max"


@pytest.mark.parametrize(
    ("quota", "cpus"),
    [
        (None, 8),
        ("max 100000", 8),
        ("200000 100000", 2),
        ("250000 100000", 2),
        ("50000 100000", 1),
        ("9900000 100000", 8),
        ("nonsense", 8),
        ("1 0", 8),
    ],
)
def test_usable_cpus(eight_cpus, quota, cpus):
    if quota is not None:
        eight_cpus.write_text(quota)
    assert workers.usable_cpus() == cpus


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


def test_loaders_ask(eight_cpus):
    eight_cpus.write_text("100000 100000")
    assert build_test_loader([{"x": 1}], lambda record: record, num_workers=5).num_workers == 1
