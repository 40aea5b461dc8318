"""Whole runs that a GPU makes in `tests/smoke/test_gpu.py`, on the pretended device."""

from __future__ import annotations

import pytest

from mask_rcnn_repro.engine import evaluate

from ..smoke import test_gpu

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """A thread of its own would predict on a device that is not pretended."""
    monkeypatch.setattr(evaluate, "_images_at_once", lambda *args: 0)


@pytest.mark.parametrize("keys", [[], ["train.amp.enabled=true", "train.amp.dtype=fp16"]])
def test_training_and_resuming(keys, waits, tmp_path):
    test_gpu.test_trains_and_resumes_on_cuda(keys, tmp_path)


def test_evaluation(waits, tmp_path):
    test_gpu.test_cuda_evaluates_as_the_cpu_does(tmp_path)
