"""The embedded Cityscapes data set: streets with exact instance masks, drawn from a seed.

Eight classes in Cityscapes' official layout, made without any download. See
``docs/embedded_cityscapes.md`` for what it contains.
"""

from __future__ import annotations

from mask_rcnn_embedded.cityscapes.data_set import DATA_SET
from mask_rcnn_embedded.cityscapes.spec import (
    CITIES,
    FULL_SPEC,
    SPLITS,
    THING_CLASSES,
    TINY_SPEC,
    CityscapesSpec,
)

generate = DATA_SET.generate
ensure_generated = DATA_SET.ensure_generated
is_complete = DATA_SET.is_complete

__all__ = [
    "CITIES",
    "DATA_SET",
    "FULL_SPEC",
    "SPLITS",
    "THING_CLASSES",
    "TINY_SPEC",
    "CityscapesSpec",
    "ensure_generated",
    "generate",
    "is_complete",
]
