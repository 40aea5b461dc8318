"""Predict on those unlabeled images whose predictions are missing, in all processes together."""

from __future__ import annotations

import contextlib
import datetime
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pycocotools.mask as mask_util
import torch
from detectron2.utils import comm
from torch import nn

from mask_rcnn_repro.data.loading.loader import Mapper, build_local_loader
from mask_rcnn_repro.distillation.predictions import Detections, PredictionStore
from mask_rcnn_repro.evaluation.loop import predict_small
from mask_rcnn_repro.evaluation.masks.rle import instances_to_results
from mask_rcnn_repro.modeling import TestTimeAugmentation
from mask_rcnn_repro.utils.interruption import Phase

logger = logging.getLogger(__name__)

_PIXEL_DIGITS = 2
_SCORE_DIGITS = 6


def predict_missing(
    store: PredictionStore,
    records: Sequence[Mapping[str, Any]],
    build: Callable[[], nn.Module],
    mapper: Mapper,
    *,
    num_workers: int = 0,
    autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
    log_seconds: float = 10.0,
) -> None:
    """Predicts on the images whose file is missing. All processes call it together.

    Each of N processes takes every N-th missing file.

    Args:
        store: Receives the predictions.
        records: Data set dicts of the images, in the order of the store.
        build: Builds the model in evaluation mode. Called only if a file is missing.
        mapper: Maps a data set dict to the model's input.
        num_workers: Number of worker processes of the loader.
        autocast: Makes the context of inference.
        log_seconds: Seconds between progress lines.

    Raises:
        Interrupted: A signal stopped the processes. Complete files remain.
    """
    # of the first process, since fast processes may write files before slow ones look
    missing = comm.all_gather(store.missing())[0]
    done = store.num_files - len(missing)
    if done:
        logger.info("%d of %d files of predictions already exist.", done, store.num_files)
    mine = missing[comm.get_rank() :: comm.get_world_size()]
    with Phase() as phase:
        if mine:
            model = build()
            indices = [i for number in mine for i in store.images_of(number)]
            loader: Any = build_local_loader([records[i] for i in indices], mapper, num_workers)
            if isinstance(model, TestTimeAugmentation):
                loader = model.views_ahead(loader)
            results = _predict(model, loader, len(indices), autocast, log_seconds, phase)
            for number in mine:
                store.write(number, [next(results) for _ in store.images_of(number)])


@torch.no_grad()
def _predict(
    model: nn.Module,
    loader: Any,
    count: int,
    autocast: Callable[[], contextlib.AbstractContextManager[Any]],
    log_seconds: float,
    phase: Phase,
) -> Iterator[Detections]:
    begun = last = time.perf_counter()
    done = 0
    for inputs in loader:
        with autocast():
            outputs = predict_small(model, inputs)
        for image, output in zip(inputs, outputs, strict=True):
            yield detections_of(output["instances"], image)
        phase.check()
        done += len(inputs)
        now = time.perf_counter()
        if now - last > log_seconds:
            last = now
            each = (now - begun) / done
            left = datetime.timedelta(seconds=round(each * (count - done)))
            logger.info("Predicted %d/%d images, %.3f s/image, ETA %s", done, count, each, left)


def detections_of(instances: Any, image: Mapping[str, Any]) -> Detections:
    """Converts instances to the format of :mod:`mask_rcnn_repro.distillation.predictions`.

    Args:
        instances: See :func:`mask_rcnn_repro.evaluation.masks.rle.instances_to_results`.
        image: `image_id`, and `height` and `width` of the original image.

    Returns:
        Detections in the same order. Omits those without mask pixels, and those whose box is empty
        after rounding to 0.01 pixels.
    """
    height, width = int(image["height"]), int(image["width"])
    kept = []
    for result in instances_to_results(instances, height, width, image["image_id"]):
        box = [round(float(v), _PIXEL_DIGITS) for v in result["bbox"]]
        mask = result.get("segmentation")
        if min(box[2:]) <= 0 or (mask is not None and not mask_util.area(mask)):
            continue
        compact: dict[str, Any] = {
            "category_id": int(result["category_id"]),
            "bbox": box,
            "score": round(float(result["score"]), _SCORE_DIGITS),
        }
        if mask is not None:
            compact["segmentation"] = {"size": [height, width], "counts": mask["counts"]}
        if "keypoints" in result:
            compact["keypoints"] = [
                round(float(v), _SCORE_DIGITS if i % 3 == 2 else _PIXEL_DIGITS)
                for i, v in enumerate(result["keypoints"])
            ]
        kept.append(compact)
    return kept
