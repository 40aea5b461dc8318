"""The base class of the descriptions of a data set.

A spec decides every byte of its data set. :meth:`DataSetSpec.fingerprint` identifies it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from typing import ClassVar

import numpy as np

from mask_rcnn_embedded.errors import DataError

MAX_IMAGES = 99_999
"""Upper limit of the number of images in a split."""


@dataclasses.dataclass(frozen=True)
class DataSetSpec:
    """Everything that can be chosen about a data set; subclasses add fields and defaults.

    Args:
        name: first part of the name of the directory in the cache; not part of the fingerprint.
        seed: image ``index`` of a split draws from ``SeedSequence([seed, split, index])``.
        num_train: number of images in ``train``.
        num_val: number of images in ``val``.

    Raises:
        DataError: a number is out of its range.
    """

    TITLE: ClassVar[str]
    """Name of the data set in messages."""
    SPLITS: ClassVar[tuple[str, ...]]
    """Names of the splits, in the order of their seeds."""

    name: str
    seed: int
    num_train: int
    num_val: int

    def __post_init__(self) -> None:
        self._check_range(*(f"num_{split}" for split in self.SPLITS), high=MAX_IMAGES)
        self._check_range("seed")

    def _check_range(self, *fields: str, low: float = 0, high: float = math.inf) -> None:
        allowed = f"{low} or more" if high == math.inf else f"{low} to {high}"
        for field in fields:
            value = getattr(self, field)
            if not low <= value <= high:
                raise DataError(f"{self.TITLE}: {field}={value} is not allowed. Give {allowed}.")

    def num_images(self, split: str) -> int:
        """Number of images in a split.

        Raises:
            DataError: there is no split of this name.
        """
        if split not in self.SPLITS:
            raise DataError(
                f"{self.TITLE}: unknown split {split!r}. Splits: {', '.join(self.SPLITS)}."
            )
        return int(getattr(self, f"num_{split}"))

    def image_rng(self, split: str, index: int) -> np.random.Generator:
        """The random generator from which image ``index`` (from 0) of a split is drawn."""
        entropy = [self.seed, self.SPLITS.index(split), index]
        return np.random.default_rng(np.random.SeedSequence(entropy))

    def fingerprint(self) -> str:
        """12 hexadecimal digits that change with every field except ``name``."""
        fields = {k: v for k, v in dataclasses.asdict(self).items() if k != "name"}
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:12]
