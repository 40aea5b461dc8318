"""What evaluators share: checks of predictions against the data set, and the log line."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping
from typing import Any

from detectron2.structures import Instances

from mask_rcnn_repro.errors import DataError

logger = logging.getLogger(__name__)


def original_size(image: Mapping[str, Any], instances: Instances) -> tuple[int, int]:
    """Returns height and width of the original image, by default those of `instances`."""
    height, width = instances.image_size
    return int(image.get("height", height)), int(image.get("width", width))


def check_classes(highest: int, classes: int, dataset_name: str) -> None:
    """Checks the highest class index that the model predicted; -1 means no prediction.

    Raises:
        DataError: The data set does not have that class.
    """
    if highest >= classes:
        raise DataError(
            f"The model predicted class {highest}, but {dataset_name!r} has {classes} classes "
            f"(0 to {classes - 1}). Set model.roi_heads.num_classes={classes}, or evaluate on the "
            "data set that the model was trained for."
        )


def check_images(seen: Collection[Any], known: Collection[Any], dataset_name: str) -> None:
    """Checks the ids of the evaluated images.

    Raises:
        DataError: Some of them are not in the annotations.
    """
    if unknown := set(seen) - set(known):
        raise DataError(
            f"{len(unknown)} of {len(seen)} evaluated images, such as image_id "
            f"{next(iter(unknown))!r}, are not in the annotations of {dataset_name!r}. "
            "The evaluator's data set must be the loader's (dataloader.evaluator.dataset_name)."
        )


def log_metrics(task: str, metrics: Mapping[str, Any]) -> None:
    """Logs the metrics of a task that are numbers, in one line."""
    values = ", ".join(
        f"{name} {'undefined' if math.isnan(value) else f'{value:.2f}'}"
        for name, value in metrics.items()
        if isinstance(value, float)
    )
    logger.info("%s: %s", task, values)
