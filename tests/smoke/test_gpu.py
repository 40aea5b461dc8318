"""Whole runs on a CUDA device: each precision trains, and evaluates as the CPU does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mask_rcnn_repro.records.record import load_record

from .run_helpers import QUICKSTART, REPOSITORY

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def train_net(*arguments: str) -> None:
    command = [sys.executable, str(REPOSITORY / "train_net.py"), "--config-file", str(QUICKSTART)]
    subprocess.run([*command, "--profile", "tiny", "train.draw=0", *arguments], check=True)


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
    train_net("train.device=cuda", f"train.output_dir={run}", *keys)
    record = load_record(run / "record.json")
    assert record.device.type == "cuda" and record.iterations_done == record.iterations_planned
    (run / "record.json").unlink()
    train_net("train.device=cuda", f"train.output_dir={run}", "--resume", *keys)
    assert load_record(run / "record.json").metrics == record.metrics


def test_cuda_evaluates_as_the_cpu_does(tmp_path: Path) -> None:
    """Detections with a clear score agree; rounding may change the order of the others."""
    import json

    run = tmp_path / "run"
    train_net("train.device=cpu", "train.amp.enabled=false", f"train.output_dir={run}")
    boxes = {}
    for device in ("cpu", "cuda"):
        out = tmp_path / device
        train_net(
            "--eval-only",
            f"train.init_checkpoint={run / 'model_final.pth'}",
            f"train.device={device}",
            "train.amp.enabled=false",
            f"train.output_dir={out}",
        )
        (file,) = out.rglob("bbox_results.json")
        found = sorted(json.loads(file.read_text()), key=lambda d: -d["score"])[:20]
        boxes[device] = torch.tensor([[*d["bbox"], d["score"]] for d in found])
    torch.testing.assert_close(boxes["cpu"], boxes["cuda"], rtol=1e-3, atol=1e-2)
