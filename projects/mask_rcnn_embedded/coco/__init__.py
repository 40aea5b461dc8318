"""The embedded data set: pictures with exact masks and keypoints, drawn from a seed.

18 classes in COCO's format, made once in a few minutes without any download. See
``docs/embedded_data.md`` for what it contains.
"""

from __future__ import annotations

from mask_rcnn_embedded.coco.data_set import DATA_SET
from mask_rcnn_embedded.coco.spec import (
    CATEGORIES,
    FULL_SPEC,
    SPLITS,
    THING_CLASSES,
    TINY_SPEC,
    EmbeddedSpec,
)

generate = DATA_SET.generate
ensure_generated = DATA_SET.ensure_generated
is_complete = DATA_SET.is_complete

__all__ = [
    "CATEGORIES",
    "DATA_SET",
    "FULL_SPEC",
    "SPLITS",
    "THING_CLASSES",
    "TINY_SPEC",
    "EmbeddedSpec",
    "ensure_generated",
    "generate",
    "is_complete",
]
