"""What the embedded Cityscapes data set is made of: splits, cities, sizes, how full a street is.

A spec and :data:`VERSION` decide every byte of the data set; :meth:`CityscapesSpec.fingerprint`
names them together.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json

from mask_rcnn_embedded.errors import DataError

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
"""Picture ``i`` is sure to be planned with one of these, in turn: the rare ones occur in each
split. Bicycles and motorcycles that are featured carry a rider."""


@dataclasses.dataclass(frozen=True)
class CityscapesSpec:
    """Everything that a person may vary about the data set.

    Args:
        name: begins the name of the folder below the cache; not part of the fingerprint.
        seed: every picture draws from ``SeedSequence([seed, split, index])``.
        num_train: pictures in ``train``.
        num_val: pictures in ``val``.
        num_test: pictures in ``test``.
        width: pixels; Cityscapes' own pictures have 2048.
        height: pixels.
        featured: things of :data:`FEATURED` that a picture is planned with.
        mean_persons: pedestrians a picture, on average, before the hidden ones are taken out.
        mean_cars: cars a picture.
        mean_rare: further trucks, buses, trains and motorcycles a picture, together.
        mean_bicycles: further bicycles a picture, with or without a rider.
        group_fraction: share of pictures with a group, whose members have no ids of their own.
        min_visible: instances of which a smaller share is visible are taken out of the picture.
        min_pixels: likewise instances with fewer visible pixels. (The official evaluation ignores
            instances below 100 pixels.)
        version: version of the drawing code.

    Raises:
        DataError: a number is out of its range.
    """

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
        for field in ("num_train", "num_val", "num_test"):
            value = getattr(self, field)
            if not 0 <= value < 100_000:
                raise DataError(
                    f"embedded Cityscapes: {field}={value} is not allowed; give 0 to 99999"
                )
        for field in ("mean_persons", "mean_cars", "mean_rare", "mean_bicycles", "seed"):
            value = getattr(self, field)
            if value < 0:
                raise DataError(f"embedded Cityscapes: {field}={value} is negative; give 0 or more")
        if self.height < 64 or not 1.5 <= self.width / self.height <= 2.5:
            raise DataError(
                f"embedded Cityscapes: width={self.width} with height={self.height}; needed: at "
                "least 64 pixels high and 1.5 to 2.5 times as wide"
            )
        if not 0 <= self.featured <= len(FEATURED):
            raise DataError(
                f"embedded Cityscapes: featured={self.featured} is not allowed; give 0 to "
                f"{len(FEATURED)}"
            )
        if self.min_pixels < 1:
            raise DataError(
                f"embedded Cityscapes: min_pixels={self.min_pixels} is not allowed; give 1 or more"
            )
        for field in ("group_fraction", "min_visible"):
            value = getattr(self, field)
            if not 0.0 <= value <= 1.0:
                raise DataError(f"embedded Cityscapes: {field}={value} lies outside 0 to 1")

    def num_images(self, split: str) -> int:
        """Number of pictures in a split.

        Raises:
            DataError: ``split`` is not one of :data:`SPLITS`.
        """
        if split not in SPLITS:
            raise DataError(
                f"embedded Cityscapes: no split {split!r}; there are {', '.join(SPLITS)}"
            )
        return int(getattr(self, f"num_{split}"))

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

    def fingerprint(self) -> str:
        """12 hex digits that change with every field except ``name``."""
        fields = {k: v for k, v in dataclasses.asdict(self).items() if k != "name"}
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:12]


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
