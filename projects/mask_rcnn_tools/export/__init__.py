"""A trained detector as one file for use without this project: torch.export, TorchScript, ONNX.

| file | what it is |
|---|---|
| graph.py, boxes.py, keypoints.py, sizes.py | the detector as a function of one image, in tensors |
| formats.py, metadata.py | writing and opening files, what they say about themselves |
| compare.py, images.py | whether a file gives what the model gives |
| support.py | what cannot be exported |
| run.py | all of it |
| cli.py, main.py | `tools/export.py` |
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mask_rcnn_tools.export.formats import open_exported
    from mask_rcnn_tools.export.graph import DetectorGraph
    from mask_rcnn_tools.export.run import Exported, export_detector

_LAZY = {
    "DetectorGraph": "graph",
    "Exported": "run",
    "export_detector": "run",
    "open_exported": "formats",
}

__all__ = ["DetectorGraph", "Exported", "export_detector", "open_exported"]


def __getattr__(name: str) -> Any:  # the command line is parsed before torch is imported
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
