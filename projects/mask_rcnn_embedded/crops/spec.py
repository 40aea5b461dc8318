"""The contents of the crops: classes, sizes of the splits and of the images."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from mask_rcnn_embedded.drawing.kinds import KINDS
from mask_rcnn_embedded.spec import DataSetSpec

VERSION = 3
"""Version of the drawing code. Raise it whenever a picture changes."""

SPLITS = ("train", "val")
"""Names of the splits, in the order of their seeds."""

CLASSES: tuple[str, ...] = ("person", *KINDS)
"""All classes; a data set has the first ``num_classes`` of them."""

_OTHER_SEEDS = 1000
"""Added to the number of a split, so that no crop is drawn from the seed of a detection image."""


@dataclasses.dataclass(frozen=True)
class CropSpec(DataSetSpec):
    """Everything that can be chosen about the crops.

    Args:
        name: see :class:`~mask_rcnn_embedded.spec.DataSetSpec`, as are the next three.
        seed: seed of all crops.
        num_train: number of images in ``train``; class ``index % num_classes`` each.
        num_val: number of images in ``val``.
        num_classes: the first so many of :data:`CLASSES`.
        side: height and width of every image in pixels.
        version: version of the drawing code.

    Raises:
        DataError: a number is out of its range.
    """

    TITLE: ClassVar[str] = "crops for pre-training"
    SPLITS: ClassVar[tuple[str, ...]] = SPLITS

    name: str = "crops"
    seed: int = 0
    num_train: int = 20_000
    num_val: int = 1_500
    num_classes: int = 30
    side: int = 96
    version: int = VERSION

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_range("num_classes", low=1, high=len(CLASSES))
        self._check_range("side", low=32, high=1024)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, sorted as the directories are; the index is the label."""
        return tuple(sorted(CLASSES[: self.num_classes]))

    def image_rng(self, split: str, index: int) -> np.random.Generator:
        """The random generator of a crop, which differs from that of every detection image."""
        entropy = [self.seed, _OTHER_SEEDS + self.SPLITS.index(split), index]
        return np.random.default_rng(np.random.SeedSequence(entropy))

    def file_name(self, split: str, index: int) -> str:
        """File of crop ``index`` relative to the root: split, class, number within the class."""
        name = self.classes[index % self.num_classes]
        return f"{split}/{name}/{index // self.num_classes + 1:05d}.jpg"


FULL_SPEC = CropSpec()
"""Stands for ImageNet-1k."""

MANY_SPEC = CropSpec(name="many_crops", num_train=50_000, num_val=3_000, num_classes=len(CLASSES))
"""More classes and more images: stands for ImageNet-5k."""

TINY_SPEC = CropSpec(name="tiny_crops", num_train=60, num_val=30, side=64)
"""The crops of the ``tiny`` profile and of the tests: made in about a second."""

TINY_MANY_SPEC = dataclasses.replace(
    TINY_SPEC, name="tiny_many_crops", num_train=120, num_val=60, num_classes=len(CLASSES)
)
"""As :data:`TINY_SPEC`, with all classes."""
