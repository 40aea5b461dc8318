"""The contents of the embedded data set: categories, sizes of the splits and of the images."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from mask_rcnn_embedded.errors import DataError
from mask_rcnn_embedded.spec import DataSetSpec

VERSION = 4
"""Version of the drawing code. Raise it whenever a picture or an annotation changes."""

SPLITS = ("train", "val", "unlabeled")
"""Names of the splits, in the order of their seeds."""

IDS_PER_SPLIT = 100_000
"""Image ids of split k start at ``k * IDS_PER_SPLIT + 1``, so that no id occurs twice."""

# The ids have gaps, as COCO's do, to expose code that takes an id for an index.
CATEGORIES: tuple[dict[str, Any], ...] = (
    {"id": 1, "name": "person", "supercategory": "person"},
    {"id": 2, "name": "bicycle", "supercategory": "vehicle"},
    {"id": 3, "name": "mug", "supercategory": "vessel"},
    {"id": 4, "name": "cup", "supercategory": "vessel"},
    {"id": 5, "name": "car", "supercategory": "vehicle"},
    {"id": 6, "name": "motorcycle", "supercategory": "vehicle"},
    {"id": 7, "name": "leaf", "supercategory": "nature"},
    {"id": 8, "name": "fish", "supercategory": "animal"},
    {"id": 9, "name": "bus", "supercategory": "vehicle"},
    {"id": 11, "name": "star", "supercategory": "emblem"},
    {"id": 12, "name": "train", "supercategory": "vehicle"},
    {"id": 14, "name": "cog", "supercategory": "emblem"},
    {"id": 15, "name": "truck", "supercategory": "vehicle"},
    {"id": 17, "name": "bird", "supercategory": "animal"},
    {"id": 18, "name": "dog", "supercategory": "animal"},
    {"id": 20, "name": "umbrella", "supercategory": "accessory"},
    {"id": 22, "name": "bottle", "supercategory": "vessel"},
    {"id": 25, "name": "chair", "supercategory": "furniture"},
)

THING_CLASSES: tuple[str, ...] = tuple(category["name"] for category in CATEGORIES)
"""Category names in the order of the contiguous class indices."""

OTHER_THINGS: tuple[str, ...] = (
    "airplane", "arrow", "ball", "bell", "carrot", "clock", "crown", "flower", "hammer", "heart",
    "house", "lamp", "light_bulb", "mushroom", "pawn", "rocket", "table", "vase", "windmill",
)  # fmt: skip
"""Things in the pictures that have no class there."""

SKELETON: tuple[tuple[int, int], ...] = (
    (16, 14), (14, 12), (17, 15), (15, 13), (12, 13), (6, 12), (7, 13), (6, 7), (6, 8), (7, 9),
    (8, 10), (9, 11), (2, 3), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 7),
)  # fmt: skip
"""COCO's skeleton: pairs of keypoint numbers, counted from 1."""


@dataclasses.dataclass(frozen=True)
class EmbeddedSpec(DataSetSpec):
    """Everything that can be chosen about the embedded data set.

    Args:
        name: see :class:`~mask_rcnn_embedded.spec.DataSetSpec`, as are the next three.
        seed: seed of all images.
        num_train: number of images in ``train``.
        num_val: number of images in ``val``.
        num_unlabeled: number of images in ``unlabeled``.
        short_side: least length of the shorter side of an image in pixels.
        max_long_side: upper limit of the longer side in pixels.
        mean_instances: mean number of instances per image that the layout aims at.
        mean_distractors: mean number of things of no class per image.
        max_places: upper limit of the random number of places tried for each thing, which takes
            the emptiest one. More places cause less overlap.
        min_visible: instances of which a smaller share is visible are removed from the picture.
        twig_fraction: share of images with thin stems in front of everything.
        crowd_fraction: share of images with a crowd region.
        png_fraction: share of images stored as PNG instead of JPEG.
        empty_fraction: share of images without any instance.
        version: version of the drawing code.

    Raises:
        DataError: a number is out of its range.
    """

    TITLE: ClassVar[str] = "embedded data set"
    SPLITS: ClassVar[tuple[str, ...]] = SPLITS
    CATEGORIES: ClassVar[tuple[dict[str, Any], ...]] = CATEGORIES

    name: str = "coco"
    seed: int = 0
    num_train: int = 6000
    num_val: int = 1500
    num_unlabeled: int = 3000
    short_side: int = 320
    max_long_side: int = 512
    mean_instances: float = 6.0
    mean_distractors: float = 0.8
    max_places: int = 20
    min_visible: float = 0.35
    twig_fraction: float = 0.04
    crowd_fraction: float = 0.04
    png_fraction: float = 0.02
    empty_fraction: float = 0.01
    version: int = VERSION

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 48 <= self.short_side <= self.max_long_side:
            raise DataError(
                f"{self.TITLE}: short_side={self.short_side} with max_long_side="
                f"{self.max_long_side} is not allowed. Give 48 <= short_side <= max_long_side."
            )
        self._check_range("mean_instances", "max_places", low=1)
        self._check_range("mean_distractors")
        shares = ("twig_fraction", "crowd_fraction", "png_fraction", "empty_fraction")
        self._check_range("min_visible", *shares, high=1)


FULL_SPEC = EmbeddedSpec()
"""The data set of the ``mini`` profile."""

TINY_SPEC = EmbeddedSpec(
    name="tiny_coco",
    num_train=24,
    num_val=12,
    num_unlabeled=8,
    short_side=96,
    max_long_side=144,
    mean_instances=4.0,
    crowd_fraction=0.15,
    png_fraction=0.1,
)
"""A small one for tests: made in about a second."""
