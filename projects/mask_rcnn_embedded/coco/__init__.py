"""The embedded data set: pictures with exact masks and keypoints, drawn from a seed.

Seven classes in COCO's format, made in a few seconds without any download. See
``docs/embedded_data.md`` for what it contains.
"""

from __future__ import annotations

from mask_rcnn_embedded.coco.generate import (
    embedded_root,
    ensure_generated,
    generate,
    is_complete,
)
from mask_rcnn_embedded.coco.spec import (
    CATEGORIES,
    FULL_SPEC,
    SPLITS,
    THING_CLASSES,
    TINY_SPEC,
    EmbeddedSpec,
)
from mask_rcnn_embedded.drawing.keypoints import KEYPOINT_NAMES, SKELETON

__all__ = [
    "CATEGORIES",
    "FULL_SPEC",
    "KEYPOINT_NAMES",
    "SKELETON",
    "SPLITS",
    "THING_CLASSES",
    "TINY_SPEC",
    "EmbeddedSpec",
    "embedded_root",
    "ensure_generated",
    "generate",
    "is_complete",
]
