"""What the embedded data set is made of: categories, sizes of the splits, sizes of the images.

A spec and :data:`VERSION` decide every byte of the data set; :meth:`EmbeddedSpec.fingerprint` names
them together.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from mask_rcnn_embedded.errors import DataError

VERSION = 2
"""Version of the drawing code. Raise it whenever a picture or an annotation changes."""

SPLITS = ("train", "val", "unlabeled")
"""Names of the splits, in the order of their seeds."""

IDS_PER_SPLIT = 100_000
"""Image ids of split k start at ``k * IDS_PER_SPLIT + 1``, so that no id occurs twice."""

# The ids leave gaps on purpose, as COCO's do: code that takes an id for an index shows here.
CATEGORIES: tuple[dict[str, Any], ...] = (
    {"id": 1, "name": "person", "supercategory": "person"},
    {"id": 3, "name": "mug", "supercategory": "vessel"},
    {"id": 4, "name": "cup", "supercategory": "vessel"},
    {"id": 7, "name": "leaf", "supercategory": "nature"},
    {"id": 8, "name": "fish", "supercategory": "nature"},
    {"id": 11, "name": "star", "supercategory": "emblem"},
    {"id": 14, "name": "cog", "supercategory": "emblem"},
)

THING_CLASSES: tuple[str, ...] = tuple(category["name"] for category in CATEGORIES)
"""Category names in the order of the contiguous class indices."""


@dataclasses.dataclass(frozen=True)
class EmbeddedSpec:
    """Everything that a person may vary about the embedded data set.

    Args:
        name: begins the name of the folder below the cache; not part of the fingerprint.
        seed: every image draws from ``SeedSequence([seed, split, index])``.
        num_train: images in ``train``.
        num_val: images in ``val``.
        num_unlabeled: images in ``unlabeled``.
        short_side: shorter side of every image in pixels.
        max_long_side: longest longer side in pixels.
        mean_instances: instances an image that the layout aims at.
        mean_distractors: things of no class an image, on average.
        max_places: upper limit of the random number of places tried for each thing, of which it
            takes the emptiest; more places, less overlap.
        min_visible: instances of which a smaller share is visible are taken out of the picture.
        twig_fraction: share of images with thin stems in front of everything.
        crowd_fraction: share of images with a crowd region.
        png_fraction: share of images stored as PNG instead of JPEG.
        empty_fraction: share of images without any instance.
        version: version of the drawing code.

    Raises:
        DataError: a number is out of its range.
    """

    name: str = "full"
    seed: int = 0
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

    def __post_init__(self) -> None:
        for field in ("num_train", "num_val", "num_unlabeled"):
            value = getattr(self, field)
            if not 0 <= value < IDS_PER_SPLIT:
                raise DataError(
                    f"embedded data set: {field}={value} is not allowed; give 0 to "
                    f"{IDS_PER_SPLIT - 1}"
                )
        if self.seed < 0:
            raise DataError(f"embedded data set: seed={self.seed} is negative; give 0 or more")
        if not 48 <= self.short_side <= self.max_long_side:
            raise DataError(
                f"embedded data set: short_side={self.short_side} with max_long_side="
                f"{self.max_long_side}; needed: 48 <= short_side <= max_long_side"
            )
        if self.mean_instances < 1.0 or self.mean_distractors < 0.0 or self.max_places < 1:
            raise DataError(
                f"embedded data set: mean_instances={self.mean_instances}, mean_distractors="
                f"{self.mean_distractors}, max_places={self.max_places}; at least 1, 0 and 1 needed"
            )
        shares = (
            "min_visible",
            "twig_fraction",
            "crowd_fraction",
            "png_fraction",
            "empty_fraction",
        )
        for field in shares:
            value = getattr(self, field)
            if not 0.0 <= value <= 1.0:
                raise DataError(f"embedded data set: {field}={value} lies outside 0 to 1")

    def num_images(self, split: str) -> int:
        """Number of images in a split.

        Raises:
            DataError: ``split`` is not one of :data:`SPLITS`.
        """
        if split not in SPLITS:
            raise DataError(f"embedded data set: no split {split!r}; there are {', '.join(SPLITS)}")
        return int(getattr(self, f"num_{split}"))

    def fingerprint(self) -> str:
        """12 hex digits that change with every field except ``name``."""
        fields = {k: v for k, v in dataclasses.asdict(self).items() if k != "name"}
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:12]


FULL_SPEC = EmbeddedSpec()
"""The data set of the ``mini`` profile and of the quickstart."""

TINY_SPEC = EmbeddedSpec(
    name="tiny",
    num_train=24,
    num_val=12,
    num_unlabeled=8,
    short_side=96,
    max_long_side=144,
    mean_instances=4.0,
    crowd_fraction=0.15,
)
"""The data set of the ``tiny`` profile and of the tests: made in about half a second."""
