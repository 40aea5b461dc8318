"""Whole runs on a CUDA device: each precision trains, and evaluates as the CPU does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mask_rcnn_repro.records.record import load_record

from .run_helpers import launch, results

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def train_net(folder: Path, *keys: str) -> None:
    launch(folder, "train.draw=0", *keys, gpu=True).succeeded()


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize(
    "keys",
    [
        ["train.amp.enabled=false"],
        ["train.amp.enabled=true", "train.amp.dtype=bf16"],
        ["train.amp.enabled=true", "train.amp.dtype=fp16"],
        ["train.amp.enabled=true", "train.channels_last=false", "train.accumulate=2"],
    ],
)
def test_trains_and_resumes_on_cuda(keys: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    train_net(tmp_path, "train.device=cuda", "train.output_dir=run", *keys)
    record = load_record(run / "record.json")
    assert record.device.type == "cuda" and record.iterations_done == record.iterations_planned
    (run / "record.json").unlink()
    train_net(tmp_path, "train.device=cuda", "train.output_dir=run", "--resume", *keys)
    assert load_record(run / "record.json").metrics == record.metrics


@pytest.mark.gpu
@needs_gpu
def test_cuda_evaluates_as_the_cpu_does(tmp_path: Path) -> None:
    """Detections with a clear score agree; rounding may change the order of the others."""
    plain = "train.amp.enabled=false"
    train_net(tmp_path, "train.device=cpu", plain, "train.output_dir=run")
    weights = f"train.init_checkpoint={tmp_path / 'run' / 'model_final.pth'}"
    boxes = {}
    for device in ("cpu", "cuda"):
        keys = (f"train.device={device}", f"train.output_dir={device}")
        train_net(tmp_path, "--eval-only", weights, plain, *keys)
        found = sorted(results(tmp_path / device)["bbox_results"], key=lambda d: -d["score"])[:20]
        boxes[device] = torch.tensor([[*d["bbox"], d["score"]] for d in found])
    torch.testing.assert_close(boxes["cpu"], boxes["cuda"], rtol=1e-3, atol=1e-2)
