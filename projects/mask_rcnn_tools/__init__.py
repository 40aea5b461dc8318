"""Commands around training: train, predict, visualize, analyze, export, check, tables, report.

`Predictor` is imported when it is first used, so that commands start fast.
"""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["Predictor"]


def __getattr__(name: str) -> Any:
    if name != "Predictor":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module("mask_rcnn_tools.predict.predictor").Predictor
