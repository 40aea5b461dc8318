"""Mask R-CNN (He et al., arXiv 1703.06870) as a Detectron2 plugin.

Importing this package imports neither torch nor Detectron2: the names below are resolved when they
are first used. Call :func:`register` once before building anything by name from Detectron2's
registries or data set catalogues; every entry point of the project does so itself.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_LAZY = {
    "add_mask_rcnn_repro_config": "mask_rcnn_repro.config.yacs",
    "build_predictor": "mask_rcnn_repro.engine.predictor",
    "get_config": "mask_rcnn_repro.config",
    "load_config": "mask_rcnn_repro.config",
    "register": "mask_rcnn_repro.registration",
}

__all__ = ["__version__", *sorted(_LAZY)]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
