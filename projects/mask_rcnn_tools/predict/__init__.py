"""Predicting on images, videos and cameras with a trained model: drawn pictures, COCO json."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mask_rcnn_tools.predict.options import Options
    from mask_rcnn_tools.predict.predictor import Picture, Predictor
    from mask_rcnn_tools.predict.run import Outcome, predict_files
    from mask_rcnn_tools.predict.sources import find_sources

_LAZY = {
    "Options": "options",
    "Outcome": "run",
    "Picture": "predictor",
    "Predictor": "predictor",
    "find_sources": "sources",
    "predict_files": "run",
}

__all__ = ["Options", "Outcome", "Picture", "Predictor", "find_sources", "predict_files"]


def __getattr__(name: str) -> Any:  # the command line is parsed before torch is imported
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
