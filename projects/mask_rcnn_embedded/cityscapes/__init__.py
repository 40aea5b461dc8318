"""The embedded Cityscapes data set: streets with exact instance masks, drawn from a seed.

Eight classes in Cityscapes' official layout, made without any download. See
``docs/embedded_cityscapes.md`` for what it contains.
"""

from __future__ import annotations

from mask_rcnn_embedded.cityscapes.generate import (
    ensure_generated,
    generate,
    is_complete,
)
from mask_rcnn_embedded.cityscapes.spec import (
    CITIES,
    FULL_SPEC,
    SPLITS,
    THING_CLASSES,
    TINY_SPEC,
    CityscapesSpec,
)

__all__ = [
    "CITIES",
    "FULL_SPEC",
    "SPLITS",
    "THING_CLASSES",
    "TINY_SPEC",
    "CityscapesSpec",
    "ensure_generated",
    "generate",
    "is_complete",
]
