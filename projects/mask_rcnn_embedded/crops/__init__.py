"""Crops for pre-training: one thing and its surroundings each, in ImageNet's directories.

They stand for the classification data on which the paper's backbones are pre-trained. See
``docs/embedded_data.md``.
"""

from __future__ import annotations

from mask_rcnn_embedded.crops.data_set import DATA_SET
from mask_rcnn_embedded.crops.spec import (
    FULL_SPEC,
    MANY_SPEC,
    SPLITS,
    TINY_MANY_SPEC,
    TINY_SPEC,
    CropSpec,
)

generate = DATA_SET.generate
ensure_generated = DATA_SET.ensure_generated
is_complete = DATA_SET.is_complete

__all__ = [
    "DATA_SET",
    "FULL_SPEC",
    "MANY_SPEC",
    "SPLITS",
    "TINY_MANY_SPEC",
    "TINY_SPEC",
    "CropSpec",
    "ensure_generated",
    "generate",
    "is_complete",
]
