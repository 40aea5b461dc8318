"""The quickstart's data set: small pictures of seven classes with exact masks and keypoints.

Made in half a minute. See ``docs/embedded_data.md`` for what it contains.
"""

from __future__ import annotations

from mask_rcnn_embedded.coco.data_set import EmbeddedData
from mask_rcnn_embedded.quickstart.scene import render
from mask_rcnn_embedded.quickstart.spec import (
    CATEGORIES,
    FULL_SPEC,
    THING_CLASSES,
    TINY_SPEC,
    QuickstartSpec,
)


class QuickstartData(EmbeddedData):
    """The quickstart's data set; see :mod:`mask_rcnn_embedded.quickstart`."""

    package = "mask_rcnn_embedded.quickstart"
    full, tiny = FULL_SPEC, TINY_SPEC
    render = staticmethod(render)


DATA_SET = QuickstartData()
generate = DATA_SET.generate
ensure_generated = DATA_SET.ensure_generated
is_complete = DATA_SET.is_complete

__all__ = [
    "CATEGORIES",
    "DATA_SET",
    "FULL_SPEC",
    "THING_CLASSES",
    "TINY_SPEC",
    "QuickstartSpec",
    "ensure_generated",
    "generate",
    "is_complete",
]
