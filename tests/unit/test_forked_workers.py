"""Worker processes do not hang where this process has used OpenCV with several threads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import os, sys
import cv2
import numpy as np
from mask_rcnn_embedded.coco import TINY_SPEC
from mask_rcnn_embedded.coco import generate
from mask_rcnn_repro.data.loading.loader import build_test_loader

def use_threads():
    cv2.setNumThreads(4)
    before = len(os.listdir("/proc/self/task"))
    cv2.GaussianBlur(np.zeros((2000, 2000), np.float32), (31, 31), 3)
    assert len(os.listdir("/proc/self/task")) > before, "OpenCV has started no threads"

use_threads()
generate(sys.argv[1], TINY_SPEC, num_workers=2)
assert cv2.getNumThreads() == 4
print("generated")
use_threads()
mapper = lambda record: {"seen": record["x"], "sum": cv2.blur(np.ones((99, 99)), (3, 3)).sum()}
loader = build_test_loader([{"x": i} for i in range(6)], mapper, num_workers=2)
print("loaded", [batch[0]["seen"] for batch in loader])
"""


@pytest.mark.slow
def test_workers_after_opencv_threads(tmp_path: Path) -> None:
    sources = str(Path(__file__).resolve().parents[2] / "projects")
    done = subprocess.run(  # in a process of its own, which a hang cannot take the tests with
        [sys.executable, "-W", "ignore", "-c", CODE, str(tmp_path / "data")],
        env={**os.environ, "PYTHONPATH": sources},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["generated", "loaded [0, 1, 2, 3, 4, 5]"]
