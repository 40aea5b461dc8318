"""Objects grouped by size, as COCO does.

Shapes: P objects.
"""

from __future__ import annotations

import numpy as np

SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, np.inf)}
"""Name to range of the area in pixels of the original image, the upper end excluded."""


def by_size(area: np.ndarray) -> dict[str, np.ndarray]:
    """Name to (P,) bool: which objects, of (P,) areas, are of this size; "all" first."""
    groups = {"all": np.ones(len(area), bool)}
    groups.update({name: (low <= area) & (area < high) for name, (low, high) in SIZES.items()})
    return groups


def mean_or_nan(values: np.ndarray) -> float:
    """The mean; NaN of nothing."""
    return float(values.mean()) if len(values) else float("nan")
