"""The contents of the quickstart's data set: fewer and smaller pictures of seven classes."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from mask_rcnn_embedded.coco import spec as coco

VERSION = 2
"""Version of the drawing code. Raise it whenever a picture or an annotation changes."""

_NAMES = ("person", "mug", "cup", "leaf", "fish", "star", "cog")

CATEGORIES: tuple[dict[str, Any], ...] = tuple(
    {**category, "supercategory": "nature" if name in ("leaf", "fish") else supercategory}
    for category in coco.CATEGORIES
    for name, supercategory in [(category["name"], category["supercategory"])]
    if name in _NAMES
)

THING_CLASSES: tuple[str, ...] = tuple(category["name"] for category in CATEGORIES)
"""Category names in the order of the contiguous class indices."""


@dataclasses.dataclass(frozen=True)
class QuickstartSpec(coco.EmbeddedSpec):
    """As :class:`~mask_rcnn_embedded.coco.spec.EmbeddedSpec`, with other defaults.

    Every image is exactly ``short_side`` pixels on its shorter side.
    """

    TITLE: ClassVar[str] = "quickstart's data set"
    CATEGORIES: ClassVar[tuple[dict[str, Any], ...]] = CATEGORIES

    name: str = "full"
    num_train: int = 1500
    num_val: int = 300
    num_unlabeled: int = 600
    short_side: int = 160
    max_long_side: int = 256
    mean_instances: float = 4.4
    mean_distractors: float = 0.6
    max_places: int = 60
    min_visible: float = 0.5
    twig_fraction: float = 0.05
    crowd_fraction: float = 0.08
    png_fraction: float = 0.1
    empty_fraction: float = 0.015
    version: int = VERSION


FULL_SPEC = QuickstartSpec()
"""The data set of the quickstart."""

TINY_SPEC = QuickstartSpec(
    name="tiny",
    num_train=24,
    num_val=12,
    num_unlabeled=8,
    short_side=96,
    max_long_side=144,
    mean_instances=4.0,
    crowd_fraction=0.15,
)
"""The data set of the ``tiny`` profile: made in about half a second."""
