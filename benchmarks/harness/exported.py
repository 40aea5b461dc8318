"""Exported detectors in other runtimes on the CPU, each a function from an image to outputs.

The file is that of the project's own exporter (`tools/export.py --format onnx`).
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch
from torch import nn

from mask_rcnn_tools.export.formats import RunExported, open_exported, write_onnx
from mask_rcnn_tools.export.graph import DetectorGraph

RUNTIMES = {"OpenVINO": "openvino", "ONNX Runtime": "onnxruntime"}
"""Runtime to the package that it needs, besides `onnx` for the export."""


def installed_runtimes() -> tuple[list[str], list[str]]:
    """Returns the runtimes that can take part, and sentences about those that cannot."""
    found, notes = [], []
    for name, package in RUNTIMES.items():
        missing = [p for p in (package, "onnx") if importlib.util.find_spec(p) is None]
        if missing:
            packages = " ".join(missing)
            notes.append(f"{name} takes no part: not installed (pip install {packages}).")
        else:
            found.append(name)
    return found, notes


def export(model: nn.Module, example: torch.Tensor, folder: Path) -> Path:
    """Writes a model as ONNX.

    Args:
        model: On the CPU, not transformed.
        example: Image (3, H, W) uint8.
        folder: Receives the file.
    """
    file = folder / "model.onnx"
    write_onnx(DetectorGraph(model).eval(), example, file, {"about": "benchmarks/inference.py"})
    return file


def open_in(runtime: str, file: Path, bf16: bool = False) -> RunExported:
    """Opens an ONNX file with PyTorch's number of threads, for one image at a time.

    Args:
        runtime: In :data:`RUNTIMES`.
        file: See :func:`export`.
        bf16: Whether OpenVINO may compute in bfloat16. ONNX Runtime has no such kernels.
    """
    return _openvino(file, bf16) if runtime == "OpenVINO" else open_exported(file)[0]


def _openvino(file: Path, bf16: bool) -> RunExported:
    import openvino

    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
    }
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(file), "CPU", options)
    names = [output.get_any_name() for output in compiled.outputs]
    request = compiled.create_infer_request()

    def run(image: np.ndarray) -> dict[str, np.ndarray]:
        found = request.infer({"image": image})
        return {name: np.array(found[name]) for name in names}

    return run
