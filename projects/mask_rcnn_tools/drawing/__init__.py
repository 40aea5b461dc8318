"""Drawing: predictions beside ground truth, what a loader feeds, marks on pictures."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mask_rcnn_tools.drawing.colors import color_of
    from mask_rcnn_tools.drawing.evaluation import draw_results
    from mask_rcnn_tools.drawing.marks import Mark, Skeleton
    from mask_rcnn_tools.drawing.painter import paint
    from mask_rcnn_tools.drawing.results import annotation_marks, result_marks
    from mask_rcnn_tools.drawing.sheet import contact_sheet

_LAZY = {
    "Mark": "marks",
    "Skeleton": "marks",
    "annotation_marks": "results",
    "color_of": "colors",
    "contact_sheet": "sheet",
    "draw_results": "evaluation",
    "paint": "painter",
    "result_marks": "results",
}

__all__ = [
    "Mark",
    "Skeleton",
    "annotation_marks",
    "color_of",
    "contact_sheet",
    "draw_results",
    "paint",
    "result_marks",
]


def __getattr__(name: str) -> Any:  # the command line is parsed before torch is imported
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
