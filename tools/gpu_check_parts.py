#!/usr/bin/env python
"""Parts of `tools/gpu_check.py` that run in processes of their own; each prints CHECK lines."""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from detectron2.structures import Boxes, Instances, Keypoints
from detectron2.utils.events import EventStorage

from mask_rcnn_repro import get_config
from mask_rcnn_repro.data.loading.polygons import PolygonArrays
from mask_rcnn_repro.engine.builders import build_model, build_optimizer, build_train_data
from mask_rcnn_repro.engine.evaluate import evaluate_model, faster_copy
from mask_rcnn_repro.engine.train.trainer import Trainer
from mask_rcnn_repro.evaluation import loop
from mask_rcnn_repro.evaluation.loop import predict_small
from mask_rcnn_repro.records.provenance import device_info, versions
from mask_rcnn_repro.registration import register
from mask_rcnn_repro.utils.precision import autocast_context
from mask_rcnn_tools.train.cli import parse_args
from mask_rcnn_tools.train.main import EXTENSIONS
from mask_rcnn_tools.train.run import run

QUICKSTART = "quickstart/mask_rcnn_r18_fpn"
JOINT = ("train.proposals=null", "train.init_from=null")

ROWS: list[tuple[str, ...]] = [
    (QUICKSTART,),
    (QUICKSTART, "train.tta.enabled=true", "train.tta.sizes=[64]"),
    (QUICKSTART, "train.amp.enabled=true", "train.amp.dtype=bf16", "train.accumulate=2"),
    (QUICKSTART, "train.amp.enabled=true", "train.amp.dtype=fp16"),
    ("table2a/r50_c4", *JOINT),
    ("table2b/softmax", *JOINT),
    ("table2c/roi_pool_max", *JOINT),
    ("table2c/roi_align_max", *JOINT),
    ("table2c/roi_warp_ave", *JOINT, "train.deterministic=true"),
    ("table2d/roi_align", *JOINT),
    ("table2e/mlp_2fc", *JOINT),
    ("table4/keypoint_and_mask", *JOINT),
    ("table7/fine", *JOINT),
    ("table8/non_local", *JOINT, "train.deterministic=true"),
    ("section4_2/class_specific",),  # with its stages
]
PAPER_SIZE: list[tuple[str, str]] = [
    ("table2a/r50_fpn", "fp32"),
    ("table2a/r50_fpn", "bf16"),
    ("table2a/r50_fpn", "fp16"),
    ("table2a/r50_c4", "bf16"),
    ("table2c/roi_warp_max", "bf16"),
    ("table2b/softmax", "bf16"),
    ("table2e/mlp_2fc", "bf16"),
    ("table4/keypoint_and_mask", "bf16"),
    ("table8/non_local", "bf16"),
]


def launch(config: str, *overrides: str) -> None:
    """Trains three iterations at `tiny` in this process and evaluates."""
    keys = ["--profile", "tiny", "train.max_iter=3", "train.draw=0", *overrides]
    run(parse_args(["--config-file", config, *keys]), EXTENSIONS)


def report_versions(device: str) -> None:
    """Prints what runs the checks."""
    print("CHECK", {**versions(), "torchvision": torchvision.__version__, **device_info(device)})


def rows(device: str, folder: str) -> int:
    """Runs each kind of row. Returns the number of failures."""
    failures = 0
    for number, (config, *overrides) in enumerate(ROWS):
        began = time.perf_counter()
        where = (f"train.device={device}", f"train.output_root={folder}")
        if device == "cpu" and "train.amp.dtype=fp16" in overrides:
            continue
        try:
            launch(config, *where, f"train.output_dir={folder}/row{number}", *overrides)
            outcome = "passed"
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            outcome = f"failed: {type(error).__name__}: {str(error)[:200]}"
            failures += 1
        finally:
            torch.use_deterministic_algorithms(False)
        seconds = time.perf_counter() - began
        print(f"CHECK {config} {' '.join(overrides)}: {outcome}, {seconds:.1f} s", flush=True)
    return failures


def ranks(device: str, folder: str) -> None:
    """Runs two processes on one device by gloo, since NCCL refuses two on one GPU."""
    with tempfile.TemporaryDirectory() as name:
        store = f"file://{name}/store"
        torch.multiprocessing.spawn(_rank, args=(store, device, folder), nprocs=2)


def _rank(rank: int, store: str, device: str, folder: str) -> None:
    from detectron2.utils import comm

    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    comm.create_local_process_group(2)
    if device == "cuda":
        torch.cuda.set_device(0)
    for config, *overrides in (ROWS[0], ("table8/non_local", *JOINT, "train.accumulate=1")):
        keys = [f"train.output_root={folder}", "dataloader.train.total_batch_size=4", *overrides]
        launch(config, *keys)
        if rank == 0:
            print(f"CHECK two ranks, {config}: passed", flush=True)
    torch.distributed.destroy_process_group()


def worker() -> int:
    """Kills a process that loads pinned batches; the batches must stay the same."""
    if torch.cuda.is_available():
        torch.zeros(1, device="cuda")
    register()
    cfg = get_config(QUICKSTART, "tiny", ["dataloader.train.num_workers=3"])

    def images(kill: bool) -> list[list[int]]:
        seen = []
        for number, batch in zip(range(24), build_train_data(cfg, 0), strict=False):
            seen.append([item["image_id"] for item in batch])
            assert batch[0]["image"].is_pinned() == torch.cuda.is_available()
            if kill and number == 5:
                os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)
        return seen

    equal = images(False) == images(True)
    print(f"CHECK batches after a killed worker are the same: {equal}")
    return int(not equal)


def memory(device: str) -> None:
    """Evaluates in batches of four while the GPU has memory for one image."""
    register()
    where = torch.device(device)
    cfg = get_config(QUICKSTART, "tiny", ["dataloader.test.batch_size=4"])
    model = build_model(cfg, where).eval()
    real, sizes = loop.predict_small, []

    def predict(model: Any, inputs: Any) -> Any:
        sizes.append(len(inputs))
        if len(inputs) > 1:  # beyond any GPU, so that the allocator raises its own error
            torch.empty(2**45, dtype=torch.uint8, device=where)
        return real(model, inputs)

    loop.evaluate.__kwdefaults__["predict"] = predict
    with tempfile.TemporaryDirectory() as folder:
        evaluate_model(cfg, model, where, Path(folder), final=False)
    print(f"CHECK images at a time: {sizes[:5]}")
    assert set(sizes) == {1, 4}


def batch(height: int, width: int, people: bool) -> list[dict[str, Any]]:
    """Two random images with eight objects each."""
    random, items = np.random.default_rng(0), []
    for _ in range(2):
        corner = random.random((8, 2)) * (width * 0.6, height * 0.6)
        size = 20 + random.random((8, 2)) * (width * 0.3, height * 0.3)
        instances = Instances((height, width))
        boxes = np.concatenate([corner, corner + size], axis=1)
        instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32))
        instances.gt_classes = torch.from_numpy(random.integers(0, 1 if people else 80, 8))
        angles = np.linspace(0, 2 * np.pi, 30, endpoint=False)
        circle = np.stack([np.cos(angles), np.sin(angles)], axis=1) / 2
        outlines = (corner + size / 2)[:, None] + circle * size[:, None]
        instances.gt_masks = PolygonArrays([[outline.reshape(-1)] for outline in outlines])
        if people:
            points = corner[:, None] + random.random((8, 17, 2)) * size[:, None]
            points = np.concatenate([points, np.full((8, 17, 1), 2.0)], axis=2)
            instances.gt_keypoints = Keypoints(torch.tensor(points, dtype=torch.float32))
        image = torch.from_numpy(random.integers(0, 255, (3, height, width), np.uint8))
        items.append({"image": image, "height": height, "width": width, "instances": instances})
    return items


def steps(device: str, quick: bool) -> int:
    """Trains and infers at the paper's size. Returns the number of failures."""
    register()
    failures = 0
    for config, precision in PAPER_SIZE[: 1 if quick else None]:
        facts = []
        try:
            for fact in _step(config, precision, device, quick):
                facts.append(fact)  # those before an error are printed, too
        except Exception as error:
            traceback.print_exc()
            facts.append(f"failed: {type(error).__name__}: {error}"[:200])
            failures += 1
        print(f"CHECK {config} {precision}: {', '.join(facts)}", flush=True)
    return failures


def _step(config: str, precision: str, device: str, quick: bool) -> Iterator[str]:
    height, width, count = (96, 160, 1) if quick else (800, 1333, 10)
    amp = precision != "fp32"
    overrides = [*JOINT, "optimizer.lr=0.00001", f"train.amp.enabled={str(amp).lower()}"]
    cfg = get_config(config, overrides=[*overrides, *([f"train.amp.dtype={precision}"] * amp)])
    torch.manual_seed(0)
    where = torch.device(device, 0) if device == "cuda" else torch.device("cpu")
    on_gpu = where.type == "cuda"
    model = build_model(cfg, where).train()
    for module in model.modules():
        if type(module).__name__ == "FrozenBatchNorm2d":  # or activations grow from block to block
            module.weight.fill_(0.3)
    data = batch(height, width, people="keypoint" in config)
    optimizer = build_optimizer(cfg, model)
    dtype = precision if amp else "bf16"
    options = {"seed": 0, "device": where, "amp_enabled": amp, "amp_dtype": dtype}
    trainer = Trainer(model, itertools.repeat(data), optimizer, **options)  # type: ignore[arg-type]

    def wait() -> None:
        if on_gpu:
            torch.cuda.synchronize()

    def timed(work: Any) -> float:
        for _ in range(3):
            work()
        wait()
        began = time.perf_counter()
        for _ in range(count):
            work()
        wait()
        return (time.perf_counter() - began) / count * 1e3

    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    with EventStorage(1) as trainer.storage:
        trainer.iter = 1
        yield f"step {timed(trainer.run_step):.0f} ms"
        if on_gpu:
            yield from _counted(trainer)
    model.eval()
    for name, net in (("plain", model), ("optimized", faster_copy(cfg, model))):
        with torch.no_grad(), autocast_context(where, amp, dtype):
            milliseconds = timed(lambda net=net: predict_small(net, data[:1]))
        yield f"{name} inference {milliseconds:.1f} ms"


def _counted(trainer: Trainer) -> list[str]:
    """Waits, kernels, busy time and peak memory of a step."""
    peak = torch.cuda.max_memory_allocated() / 2**30
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as waits:
        warnings.simplefilter("always")
        trainer.run_step()
    torch.cuda.set_sync_debug_mode("default")
    counted = [f"{len(waits)} syncs", f"peak {peak:.1f} GiB"]
    try:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            trainer.run_step()
            torch.cuda.synchronize()
    except RuntimeError as error:  # a machine may forbid it; the times are worth the rest
        return [*counted, f"no profile: {error}"[:200]]
    kernels = [e for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    busy = sum(e.time_range.elapsed_us() for e in kernels) / 1e3
    return [f"GPU busy {busy:.0f} ms", f"{len(kernels)} kernels", *counted]


def main() -> int:
    """Runs one part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part")
    parser.add_argument("arguments", nargs="*")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    parts = {"rows": rows, "ranks": ranks, "worker": worker, "memory": memory}
    parts |= {"versions": report_versions, "steps": lambda device: steps(device, args.quick)}
    return parts[args.part](*args.arguments) or 0


if __name__ == "__main__":
    sys.exit(main())
