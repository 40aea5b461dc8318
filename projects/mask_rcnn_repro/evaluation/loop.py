"""The inference loop: small predictions, progress lines, and the time of each part."""

from __future__ import annotations

import contextlib
import datetime
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from torch import nn

from mask_rcnn_repro.errors import DataError
from mask_rcnn_repro.evaluation.side_by_side import in_order
from mask_rcnn_repro.utils.interruption import Phase
from mask_rcnn_repro.utils.out_of_memory import free_memory, is_out_of_memory
from mask_rcnn_repro.utils.transfer import moved

logger = logging.getLogger(__name__)

Predict = Callable[[nn.Module, Any], Sequence[Mapping[str, Any]]]

PARTS = ("data", "inference", "postprocess")
_WARMUP_BATCHES = 5


def predict_small(model: nn.Module, inputs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Runs a detector without pasting its masks.

    Args:
        model: A ``GeneralizedRCNN`` in evaluation mode, bare or wrapped for distributed training.
            Any other model is called directly.
        inputs: A batch in the format of the model.

    Returns:
        A dict per image with `instances` in the frame of the network's input. `pred_masks`
        (R, 1, M, M) are probabilities. The output of other models is returned unchanged.
    """
    if isinstance(model, nn.parallel.DistributedDataParallel):
        model = model.module
    if not hasattr(model, "inference"):
        return model(inputs)
    return [{"instances": i} for i in model.inference(inputs, do_postprocess=False)]


def evaluate(
    model: nn.Module,
    data_loader: Any,
    evaluator: DatasetEvaluator,
    *,
    autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
    predict: Predict = predict_small,
    read: Callable[[Any], Iterator[Any]] = iter,
    at_once: int = 0,
    log_seconds: float = 5.0,
) -> tuple[dict[str, Any], dict[str, float]]:
    """Runs the model over the data and evaluates what it predicts.

    The model runs in evaluation mode without gradients; every module's mode is restored after,
    also after an error.

    Args:
        model: See :func:`predict_small`.
        data_loader: Yields batches (lists of dicts) and has a length.
        evaluator: Is reset, then receives the predictions through ``process``.
        autocast: Makes the context that inference runs in, for mixed precision.
        predict: Computes the predictions from model and batch.
        read: Makes the iterator over the batches of the loader.
        at_once: Number of batches that are predicted concurrently, each by a thread with its share
            of PyTorch's threads. On a CPU two small images in two threads take less time than one
            after the other with two threads each, if the model is safe for threads. The evaluator
            processes the results in the loader's order meanwhile. With 0 nothing is concurrent.
        log_seconds: Seconds between progress lines.

    Returns:
        The evaluator's metrics, which are empty on all processes but the first. Seconds per image
        by :data:`PARTS` and in `total`, averaged over all processes, without the first five
        batches if there are more. The seconds are empty if there was no image.

    Raises:
        Interrupted: A signal has stopped the processes between two batches.
    """
    evaluator.reset()
    batches = len(data_loader)
    skip = _WARMUP_BATCHES if batches > _WARMUP_BATCHES else 0
    clock = _Clock()
    progress = _Progress(data_loader, log_seconds)

    def predicted(inputs: Any) -> list[Mapping[str, Any]]:
        with torch.no_grad(), autocast():
            return _on_cpu(predict(model, inputs))

    def predicted_alone(inputs: Any) -> list[Mapping[str, Any]]:
        with torch.no_grad(), autocast():
            return _on_cpu(within_memory(predict, model, inputs))

    with contextlib.ExitStack() as stack:
        phase = stack.enter_context(Phase())
        stack.enter_context(_evaluation_mode(model))
        stack.enter_context(torch.no_grad())
        clock.start()
        results = in_order(read(data_loader), predicted, predicted_alone, at_once, clock.stop)
        stack.enter_context(contextlib.closing(results))
        for number, inputs, outputs in results:
            clock.stop("inference")
            evaluator.process(inputs, outputs)
            clock.stop("postprocess")
            clock.images += len(inputs)
            if number < skip:
                clock.clear()
            progress.step(len(inputs), clock)
            phase.check()
            clock.start()
    seconds = clock.seconds_per_image()
    progress.finish(seconds)
    return evaluator.evaluate() or {}, seconds


def _on_cpu(outputs: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Waits for small results, so that the thread that evaluates them does not wait for a GPU."""
    return [moved(output, torch.device("cpu")) for output in outputs]


def within_memory(predict: Predict, model: nn.Module, inputs: Any) -> list[Mapping[str, Any]]:
    """Predicts on a batch; if memory runs out, on its images one by one.

    Raises:
        DataError: Memory does not suffice for a single image.
    """
    try:
        return list(predict(model, inputs))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    free_memory()
    if len(inputs) > 1:
        logger.warning("Out of memory with %d images at a time; going on one by one.", len(inputs))
        return [output for image in inputs for output in within_memory(predict, model, [image])]
    image = inputs[0]
    size = "x".join(map(str, getattr(image.get("image"), "shape", ("?",))[-2:]))
    raise DataError(
        f"Memory does not suffice for image {image.get('file_name', image.get('image_id'))!r} at "
        f"{size} pixels. Use a smaller size in dataloader.test.mapper.augmentations, fewer "
        "detections (model.roi_heads.box_predictor.test_topk_per_image) or fewer test proposals "
        "(model.proposal_generator.post_nms_topk), or a device with more memory."
    )


@contextlib.contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Sets evaluation mode, then restores each module's mode (some are frozen in eval mode)."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


class _Clock:
    """Adds up the seconds of each part, and images."""

    def __init__(self) -> None:
        self.clear()
        self._last = time.perf_counter()

    def clear(self) -> None:
        self.sums = dict.fromkeys(PARTS, 0.0)
        self.images = 0

    def start(self) -> None:
        self._last = time.perf_counter()

    def stop(self, part: str) -> None:
        now = time.perf_counter()
        self.sums[part] += now - self._last
        self._last = now

    def seconds_per_image(self) -> dict[str, float]:
        """Seconds an image by part and in total, over all processes; empty without images."""
        everywhere = comm.all_gather((self.sums, self.images))
        images = sum(count for _, count in everywhere)
        if images == 0:
            return {}
        result = {part: sum(sums[part] for sums, _ in everywhere) / images for part in PARTS}
        result["total"] = sum(result.values())
        return result


class _Progress:
    """Log lines with the number of images, the time of each part and the time left."""

    def __init__(self, data_loader: Any, log_seconds: float) -> None:
        self._total = _image_count(data_loader)
        self._done = 0
        self._period = log_seconds
        self._began = self._last = time.perf_counter()
        where = f" on each of {comm.get_world_size()} processes" * (comm.get_world_size() > 1)
        logger.info("Evaluating about %d images%s.", self._total, where)

    def step(self, images: int, clock: _Clock) -> None:
        self._done += images
        now = time.perf_counter()
        if now - self._last < self._period:
            return
        self._last = now
        average = {part: total / max(clock.images, 1) for part, total in clock.sums.items()}
        per_image = sum(average.values()) or (now - self._began) / self._done
        left = datetime.timedelta(seconds=round(per_image * max(self._total - self._done, 0)))
        parts = ", ".join(f"{part} {average[part]:.4f}" for part in PARTS)
        logger.info(
            "Evaluated %d/%d images, %.4f s/image (%s), ETA %s",
            *(self._done, self._total, per_image, parts, left),
        )

    def finish(self, seconds: Mapping[str, float]) -> None:
        wall = datetime.timedelta(seconds=round(time.perf_counter() - self._began))
        parts = ", ".join(f"{part} {value:.4f}" for part, value in seconds.items())
        logger.info("Evaluated %d images in %s; s/image: %s", self._done, wall, parts or "none")


def _image_count(data_loader: Any) -> int:
    """Number of images of this process, or of batches if the loader does not report images."""
    for source in (getattr(data_loader, "batch_sampler", None), data_loader):
        sampler = getattr(source, "sampler", None)
        with contextlib.suppress(TypeError):
            return len(sampler)  # type: ignore[arg-type]
    return len(data_loader)
