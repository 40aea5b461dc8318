"""How many worker processes a loader starts."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from mask_rcnn_repro import get_config
from mask_rcnn_repro.config import config_hash
from mask_rcnn_repro.data.loading import loader
from mask_rcnn_repro.engine.run import Run
from mask_rcnn_tools.train.run import _load_ahead


@pytest.fixture
def eight_cpus(monkeypatch):
    monkeypatch.setattr(loader, "usable_cpus", lambda: 8)


@pytest.mark.parametrize(
    ("asked", "processes", "given"),
    [(0, 1, 0), (4, 1, 4), (8, 1, 8), (9, 1, 8), (4, 4, 2), (2, 16, 1), (0, 16, 0)],
)
def test_share_of_a_process(eight_cpus, monkeypatch, caplog, asked, processes, given):
    monkeypatch.setattr(loader.comm, "get_local_size", lambda: processes)
    with caplog.at_level(logging.INFO, logger=loader.__name__):
        assert loader.loader_workers(asked) == given
    said = [r.getMessage() for r in caplog.records]
    assert bool(said) == (asked != given)
    assert all(f"num_workers={asked}" in text and f" {given} worker" in text for text in said)


def test_loaders_ask(monkeypatch):
    monkeypatch.setattr(loader, "usable_cpus", lambda: 1)
    made = loader.build_test_loader([{"x": 1}], lambda record: record, num_workers=5)
    assert made.num_workers == 1


@pytest.mark.parametrize(
    ("profile", "device", "overrides", "train", "test"),
    [
        ("mini", "cuda", (), 4, 4),
        ("mini", "cuda", ("dataloader.train.num_workers=0",), 0, 4),
        ("mini", "cpu", (), 0, 0),
        ("tiny", "cuda", (), 0, 0),
    ],
)
def test_mini_loads_ahead_for_a_gpu(profile, device, overrides, train, test):
    cfg = get_config("table2a/r50_fpn", profile=profile, overrides=list(overrides))
    before = config_hash(cfg)
    _load_ahead(Run("row", cfg, Path(), torch.device(device), overrides))
    assert [cfg.dataloader[split].num_workers for split in ("train", "test")] == [train, test]
    assert config_hash(cfg) == before
