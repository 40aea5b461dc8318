"""The contents of the embedded Cityscapes data set: splits, cities, sizes, and traffic."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from mask_rcnn_embedded.errors import DataError
from mask_rcnn_embedded.spec import DataSetSpec

VERSION = 1
"""Version of the drawing code. Raise it whenever a picture or an annotation changes."""

SPLITS = ("train", "val", "test")
"""Names of the splits, in the order of their seeds. ``test`` has pictures alone."""

CITIES: dict[str, tuple[str, ...]] = {
    "train": ("alderton", "brackmoor", "cindervale"),
    "val": ("dunwick", "elmsgate"),
    "test": ("farrowby", "gorsefield"),
}
"""Invented cities; as in Cityscapes no city occurs in two splits."""

THING_CLASSES = (
    "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip
"""The eight classes with instances, in the order of their label ids."""

FEATURED = ("train", "bicycle", "truck", "motorcycle", "bus", "bicycle")
"""Picture ``i`` is planned with one of these, in turn, so that each split has the rare classes.

A featured bicycle or motorcycle carries a rider.
"""


@dataclasses.dataclass(frozen=True)
class CityscapesSpec(DataSetSpec):
    """Everything that can be chosen about the embedded Cityscapes data set.

    Args:
        name: see :class:`~mask_rcnn_embedded.spec.DataSetSpec`, as are the next three.
        seed: seed of all pictures.
        num_train: number of pictures in ``train``.
        num_val: number of pictures in ``val``.
        num_test: number of pictures in ``test``.
        width: width in pixels; Cityscapes' own pictures have 2048.
        height: height in pixels.
        featured: number of things of :data:`FEATURED` that a picture is planned with.
        mean_persons: mean number of pedestrians per picture, before hidden ones are removed.
        mean_cars: mean number of cars per picture.
        mean_rare: mean number of further trucks, buses, trains and motorcycles together.
        mean_bicycles: mean number of further bicycles, with or without a rider.
        group_fraction: share of pictures with a group, whose members have no ids of their own.
        min_visible: instances of which a smaller share is visible are removed from the picture.
        min_pixels: instances with fewer visible pixels are removed too. (The official evaluation
            ignores instances below 100 pixels.)
        version: version of the drawing code.

    Raises:
        DataError: a number is out of its range.
    """

    TITLE: ClassVar[str] = "embedded Cityscapes data set"
    SPLITS: ClassVar[tuple[str, ...]] = SPLITS

    name: str = "cityscapes"
    seed: int = 0
    num_train: int = 300
    num_val: int = 60
    num_test: int = 30
    width: int = 512
    height: int = 256
    featured: int = 1
    mean_persons: float = 6.0
    mean_cars: float = 6.5
    mean_rare: float = 0.8
    mean_bicycles: float = 0.9
    group_fraction: float = 0.4
    min_visible: float = 0.25
    min_pixels: int = 64
    version: int = VERSION

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_range("mean_persons", "mean_cars", "mean_rare", "mean_bicycles")
        if self.height < 64 or not 1.5 <= self.width / self.height <= 2.5:
            raise DataError(
                f"{self.TITLE}: width={self.width} with height={self.height} is not allowed. Give "
                "at least 64 pixels of height, and 1.5 to 2.5 times as much width."
            )
        self._check_range("featured", high=len(FEATURED))
        self._check_range("min_pixels", low=1)
        self._check_range("group_fraction", "min_visible", high=1)

    def featured_classes(self, index: int) -> tuple[str, ...]:
        """The things that picture ``index`` (from 0) of any split is planned with."""
        first = index * self.featured
        return tuple(FEATURED[(first + k) % len(FEATURED)] for k in range(self.featured))

    def stem(self, split: str, index: int) -> str:
        """``CITY_SSSSSS_FFFFFF`` of picture ``index`` (from 0): city, sequence and frame.

        Pictures go to the cities in turn; as in Cityscapes the frame is the 20th of its sequence.
        """
        cities = CITIES[split]
        return f"{cities[index % len(cities)]}_{index // len(cities):06d}_000019"


FULL_SPEC = CityscapesSpec()
"""The data set of the ``mini`` profile: a quarter of Cityscapes' resolution."""

TINY_SPEC = CityscapesSpec(
    name="cityscapes-tiny",
    num_train=12,
    num_val=6,
    num_test=4,
    width=192,
    height=96,
    featured=3,
    mean_persons=3.0,
    mean_cars=4.0,
    mean_rare=0.0,
    mean_bicycles=0.3,
    group_fraction=0.6,
    min_pixels=40,
)
"""The data set of the ``tiny`` profile and of the tests."""
