"""Starting processes: which way is taken, and what is refused."""

from __future__ import annotations

import argparse
import datetime
import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from detectron2.utils import comm

from mask_rcnn_repro.config import get_config
from mask_rcnn_repro.engine.builders import check_batch_size, resolve_device
from mask_rcnn_repro.engine.dependencies import dependency
from mask_rcnn_repro.engine.run import Run
from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_tools.launch import processes
from mask_rcnn_tools.train.cli import parse_args
from mask_rcnn_tools.train.run import _load_ahead


def arguments(*argv: str) -> argparse.Namespace:
    return parse_args(["--config-file", "x.py", *argv])


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize("number", ["0", "1"])
def test_one_process_is_this_one(number: str) -> None:
    seen = []
    args = arguments("--num-gpus", number)
    processes.run_distributed(lambda a: seen.append((a, os.getpid())), args)
    assert seen == [(args, os.getpid())]


def test_flags_beside_torchrun_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(ConfigError, match="torchrun"):
        processes.run_distributed(lambda a: None, arguments("--num-gpus", "2"))


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match=r"--num-gpus is 2, .* 1 CUDA"):
        processes.run_distributed(lambda a: None, arguments("--num-gpus", "2"))


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_device("auto") == resolve_device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match="no CUDA device"):
        resolve_device("cuda:0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    # each process was given its own GPU before
    assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda:1")
    assert resolve_device("cuda:0") == torch.device("cuda:0")
    assert chosen == [1, 1, 0]  # what waits for "the" device waits for this one
    with pytest.raises(ConfigError, match="has 2 CUDA devices"):
        resolve_device("cuda:2")
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
    assert resolve_device("auto") == torch.device("cuda:1")
    for name in ("cuda:0", "cpu"):  # both processes on one GPU; gloo tensors for NCCL
        with pytest.raises(ConfigError, match="CUDA_VISIBLE_DEVICES"):
            resolve_device(name)


@pytest.mark.parametrize(
    ("batch", "accumulate", "world", "fits"),
    [(8, 1, 1, True), (8, 2, 4, True), (8, 1, 3, False), (8, 4, 4, False), (6, 3, 2, True)],
)
def test_batch_must_be_shared_evenly(batch: int, accumulate: int, world: int, fits: bool) -> None:
    keys = [f"dataloader.train.total_batch_size={batch}", f"train.accumulate={accumulate}"]
    cfg = get_config("quickstart/mask_rcnn_r18_fpn", overrides=keys)
    if fits:
        check_batch_size(cfg, world)
    else:
        with pytest.raises(ConfigError, match=f"multiple of {world * accumulate}"):
            check_batch_size(cfg, world)


@pytest.mark.parametrize(
    ("cores", "processes_here", "threads"), [(96, 8, 12), (16, 8, 2), (4, 8, 1)]
)
def test_processes_share_the_cores(
    cores: int, processes_here: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.setattr("mask_rcnn_repro.utils.threads.usable_cpus", lambda: cores)
    monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", "5")
    processes._limit_threads(processes_here)
    assert not chosen and os.environ["OMP_NUM_THREADS"] == "5"  # as the user says
    monkeypatch.delitem(os.environ, "OMP_NUM_THREADS")
    processes._limit_threads(processes_here)
    assert chosen == [threads] and os.environ["OMP_NUM_THREADS"] == str(threads)  # for children


@pytest.mark.parametrize(
    ("profile", "device", "overrides", "workers"),
    [
        ("mini", "cuda", (), (4, 4)),
        ("mini", "cuda", ("dataloader.train.num_workers=0",), (0, 4)),
        ("mini", "cpu", (), (0, 0)),
        ("tiny", "cuda", (), (0, 0)),
    ],
)
def test_mini_loads_ahead_for_a_gpu(
    profile: str, device: str, overrides: tuple[str, ...], workers: tuple[int, int], tmp_path: Path
) -> None:
    cfg = get_config("table2a/r50_fpn", profile, list(overrides))
    run = Run("table2a/r50_fpn", cfg, tmp_path, torch.device(device), overrides)
    _load_ahead(run)
    assert tuple(cfg.dataloader[split].num_workers for split in ("train", "test")) == workers
    stage = dependency(run, cfg.train.proposals, (run.config_id,))
    assert tuple(stage.cfg.dataloader[s].num_workers for s in ("train", "test")) == workers


def test_objects_beside_nccl_are_limited_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Detectron2 exchanges them by a gloo group of its own, whose limit is 30 minutes."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    comm._get_global_gloo_group.cache_clear()
    try:
        with monkeypatch.context() as patched:
            patched.setattr(dist, "get_backend", lambda group=None: "nccl")
            processes._limit_objects(7)
            group = comm._get_global_gloo_group()
        assert group is not dist.group.WORLD
        options = group._get_backend(torch.device("cpu")).options
        assert options._timeout == datetime.timedelta(seconds=7)
    finally:
        comm._get_global_gloo_group.cache_clear()
        dist.destroy_process_group()
