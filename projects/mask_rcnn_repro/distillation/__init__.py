"""Data distillation: a trained model annotates unlabeled images (appendix B; Radosavovic et al.).

`tools/distill.py` is the command; docs/data_distillation.md describes it. Names are resolved when
they are first used, so that the command line answers without importing torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mask_rcnn_repro.data.generated.annotations import default_unlabeled
    from mask_rcnn_repro.distillation.run import distill
    from mask_rcnn_repro.distillation.threshold import Threshold, choose_threshold

_LAZY = {
    "Threshold": "threshold",
    "choose_threshold": "threshold",
    "default_unlabeled": "run",
    "distill": "run",
}

__all__ = ["Threshold", "choose_threshold", "default_unlabeled", "distill"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
