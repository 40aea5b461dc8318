"""The official Cityscapes numbers from matches: ``cityscapesscripts``' own functions compute them.

Two things are done around them. Their parameters are a module's global object: a copy is passed,
so that nothing is changed for others. And they stop with an IndexError where a class has instances
and predictions, but every prediction lies on ignored pixels: no score is left to make a curve of.
Such a class has found nothing, which is AP 0, as if it had no predictions.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from mask_rcnn_repro.evaluation.cityscapes.matching import official_scripts


def instance_metrics(matches: Mapping[str, Any]) -> dict[str, Any]:
    """Computes AP and AP50 as the official scripts do.

    AP is the mean over IoU 0.50 to 0.95 and over the classes of which there are instances. An
    instance counts from 100 pixels on. The result does not depend on the order of the images, nor
    of the predictions.

    Args:
        matches: Image to what :func:`~mask_rcnn_repro.evaluation.cityscapes.matching.match_image`
            returns; may be empty.

    Returns:
        `AP`, `AP50` and AP by class name under `per_class`, in percent; NaN: no such instance.
    """
    scripts = official_scripts()
    args = copy.copy(scripts.args)
    args.distanceAvailable = False
    scripts.setInstanceLabels(args)
    table = _average_precisions(matches, args)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
        averages = scripts.computeAverages(table, args)
    return {
        "AP": float(averages["allAp"] * 100),
        "AP50": float(averages["allAp50%"] * 100),
        "per_class": {name: float(x["ap"] * 100) for name, x in averages["classes"].items()},
    }


def _average_precisions(matches: Mapping[str, Any], args: Any) -> np.ndarray:
    """AP as fractions, (1, classes, IoUs), NaN where there is no instance."""
    scripts = official_scripts()
    try:
        return scripts.evaluateMatches(matches, args)
    except IndexError:
        pass
    table = np.zeros((1, len(args.instLabels), len(args.overlaps)))
    single = copy.copy(args)
    for row, label in enumerate(args.instLabels):
        for column, overlap in enumerate(args.overlaps):
            single.instLabels, single.overlaps = [label], [overlap]
            try:
                table[0, row, column] = scripts.evaluateMatches(matches, single)[0, 0, 0]
            except IndexError:
                table[0, row, column] = 0.0
    return table
