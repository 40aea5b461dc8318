"""From files to drawn pictures and predictions, one file after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import UnidentifiedImageError

from mask_rcnn_repro.data.loading.images import read_image
from mask_rcnn_repro.errors import DataError
from mask_rcnn_repro.utils.atomic import atomic_write_bytes
from mask_rcnn_tools.predict.coco_file import CocoFile, categories_of, coco_file
from mask_rcnn_tools.predict.drawing import chosen, draw, summary
from mask_rcnn_tools.predict.names import FRAMES, PICTURES, PREDICTIONS, VIDEOS, Target, plan
from mask_rcnn_tools.predict.options import Options
from mask_rcnn_tools.predict.predictor import Picture, Predictor, Results
from mask_rcnn_tools.predict.sources import Source, Sources
from mask_rcnn_tools.predict.video import FrameReader

_JPEG_QUALITY = 92
PARTS = ("reading", "model", "drawing and writing")


@dataclass
class Outcome:
    """What was done.

    Attributes:
        images: Images and frames that were predicted on.
        failed: File to what is wrong with it.
        stopped: Whether it was interrupted; what was done until then is written.
    """

    images: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    stopped: bool = False


class Clock:
    """Adds up seconds by part; the first batch, in which much is set up, is left out if others
    follow.
    """

    def __init__(self) -> None:
        self._first: dict[str, float] | None = None
        self._sums = dict.fromkeys(PARTS, 0.0)
        self._first_images = self._images = 0
        self.last = dict.fromkeys(PARTS, 0.0)
        self._since = time.perf_counter()

    def start(self) -> None:
        """Begins a batch."""
        self.last = dict.fromkeys(PARTS, 0.0)
        self._since = time.perf_counter()

    def stop(self, part: str) -> None:
        """Counts the time since the last call for a part."""
        now = time.perf_counter()
        self.last[part] += now - self._since
        self._since = now

    def count(self, images: int) -> None:
        """Ends a batch of so many images."""
        if self._first is None:
            self._first, self._first_images = self.last, images
            return
        self._images += images
        for part in PARTS:
            self._sums[part] += self.last[part]

    def seconds_per_image(self) -> dict[str, float]:
        """By part; empty before the first image."""
        sums, images = self._sums, self._images
        if not images and self._first is not None:
            sums, images = self._first, self._first_images
        return {part: total / images for part, total in sums.items()} if images else {}


class Job:
    """What the parts of one command share: model, options, open files, times.

    Args:
        predictor: The model.
        options: How.
        targets: Where results go.
        say: Takes lines to print.
    """

    def __init__(
        self,
        predictor: Predictor,
        options: Options,
        targets: Mapping[Source, Target],
        say: Callable[[str], None],
    ) -> None:
        self.predictor, self.options, self.targets, self.say = predictor, options, targets, say
        self.outcome = Outcome()
        self.clock = Clock()
        self.coco: CocoFile | None = None
        self._done = 0

    def fail(self, source: Source, what: str) -> None:
        """Reports a file that cannot be used."""
        self.outcome.failed[source.name] = what
        self.report(source.name, f"FAILED: {what}")

    def report(self, name: str, what: str) -> None:
        """A line about a finished file."""
        self._done += 1
        total = max(len(self.targets), self._done)
        width = len(str(total))
        self.say(f"{self._done:{width}}/{total}  {name}  {what}")

    def predict(self, pictures: Sequence[Picture]) -> list[Results]:
        """Results of a batch, timed."""
        results = self.predictor(pictures)
        self.clock.stop("model")
        self.outcome.images += len(pictures)
        return results

    def rgb(self, pixels: np.ndarray) -> np.ndarray:
        """An image in the model's channel order as RGB."""
        return pixels[:, :, ::-1] if self.predictor.image_format == "BGR" else pixels

    def drawn(self, pixels: np.ndarray, results: Results) -> np.ndarray:
        """The RGB picture of an image in the model's channel order."""
        return draw(self.rgb(pixels), results, self.predictor, self.options)

    def chosen(self, results: Results) -> Results:
        """What is drawn."""
        return chosen(results, self.options, self.predictor.is_rpn)


def predict_files(
    predictor: Predictor,
    sources: Sources,
    options: Options,
    *,
    image_ids: Mapping[Path, int | str] | None = None,
    info: Mapping[str, Any] | None = None,
    camera: int | None = None,
    say: Callable[[str], None] = print,
) -> Outcome:
    """Predicts on all files; broken ones are reported and passed over.

    Args:
        predictor: The model.
        sources: Images and videos; may be empty if there is a camera.
        options: How.
        image_ids: Of all images by their path; None counts from 1 in the order of the files.
        info: Goes into "info" of the predictions.
        camera: Number of a camera that is read until Ctrl-C, after the files; None: none.
        say: Takes one line for each file, and the summary.

    Returns:
        What was done, and what failed.

    Raises:
        ConfigError: A result would overwrite an input.
        DataError: There is no such camera, or a video cannot be written.
        OSError: Results cannot be written.
    """
    # these import the job from here
    from mask_rcnn_tools.predict.movies import predict_camera, predict_video

    targets = plan(options.output, sources.files)
    reader = None
    if camera is not None:  # told now, not after hours of other files
        reader = FrameReader(camera, options.every, options.max_frames)
    images = [source for source in sources.files if not source.is_video]
    ids = image_ids or {source.path: number for number, source in enumerate(images, start=1)}
    job = Job(predictor, options, targets, say)
    facts: dict[str, Any] = {**(info or {}), "image_root": str(sources.root)}
    with ExitStack() as stack:
        if options.json:
            categories = categories_of(predictor.classes, predictor.metadata, predictor.keypoints)
            file = options.output / PREDICTIONS
            job.coco = stack.enter_context(coco_file(file, categories, facts))
        try:
            for batch in _batches(images, options.batch_size):
                _predict_images(job, batch, ids)
            for source in sources.files:
                if source.is_video:
                    predict_video(job, source)
            if camera is not None and reader is not None:
                predict_camera(job, camera, reader)
        except KeyboardInterrupt:
            job.outcome.stopped = True
        failed = [{"file_name": f, "error": e} for f, e in job.outcome.failed.items()]
        facts.update(failed=failed, stopped=job.outcome.stopped)
    _summarize(job)
    return job.outcome


def _batches(items: Sequence[Source], size: int) -> Iterator[Sequence[Source]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _predict_images(job: Job, batch: Sequence[Source], ids: Mapping[Path, int | str]) -> None:
    job.clock.start()
    good: list[tuple[Source, Picture]] = []
    for source in batch:
        try:
            pixels = read_image({"file_name": str(source.path)}, job.predictor.image_format)
            number = job.outcome.images + len(good)
            picture = job.predictor.prepare(pixels, ids[source.path], number)
        except DataError as error:
            job.fail(source, _plainly(error, source))
        else:
            good.append((source, picture))
    job.clock.stop("reading")
    if not good:
        return
    all_results = job.predict([picture for _, picture in good])
    lines = []
    for (source, picture), results in zip(good, all_results, strict=True):
        height, width = picture.pixels.shape[:2]
        if job.coco is not None:
            image = {"id": picture.image_id, "file_name": source.name}
            job.coco.add({**image, "width": width, "height": height}, results)
        shown = job.chosen(results)
        if job.options.pictures:
            write_picture(job.targets[source].drawn, job.drawn(picture.pixels, shown))
        best = max((result["score"] for result in results), default=None)
        lines.append((source.name, f"{width} x {height}  {summary(shown, job.predictor, best)}"))
    job.clock.stop("drawing and writing")
    milliseconds = 1000 * job.clock.last["model"] / len(good)
    job.clock.count(len(good))
    for name, line in lines:
        job.report(name, f"{line}  {milliseconds:.0f} ms")


def _plainly(error: DataError, source: Source) -> str:
    """What is wrong with an image, without what only an annotated one needs to be told."""
    cause = error.__cause__
    if isinstance(cause, UnidentifiedImageError):
        return "no image of a known format, or its beginning is damaged"
    if cause is not None:
        return f"cannot be decoded: {type(cause).__name__}: {cause}"
    return str(error).removeprefix(f"Image (without id), file {source.path}, ")


def write_picture(path: Path, picture: np.ndarray) -> None:
    """Writes an RGB picture in the format of its suffix, in one step; makes the folder."""
    quality = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    suffix = path.suffix.lower()
    options = quality if suffix in (".jpg", ".jpeg") else []
    _, content = cv2.imencode(suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_bytes(path, content.tobytes())


def _summarize(job: Job) -> None:
    outcome, output = job.outcome, job.options.output
    seconds = job.clock.seconds_per_image()
    total = sum(seconds.values())
    times = ", ".join(f"{part} {1000 * value:.0f}" for part, value in seconds.items())
    job.say("")
    job.say(
        f"{outcome.images} image{'s' * (outcome.images != 1)}"
        + (f", {1000 * total:.0f} ms each ({times})" if seconds else "")
        + (", stopped early" if outcome.stopped else "")
    )
    videos = (output / VIDEOS).is_dir() or (output / FRAMES).is_dir()
    for there, what, place in (
        (job.options.pictures and (output / PICTURES).is_dir(), "Pictures", PICTURES),
        (job.options.pictures and videos, "Videos", VIDEOS),
        (job.options.json and videos, "Frame by frame", FRAMES),
        (job.options.json, "Predictions", PREDICTIONS),
    ):
        if there:
            job.say(f"{what}: {output / place}")
    if outcome.failed:
        job.say(f"{len(outcome.failed)} of {len(job.targets)} files failed:")
        for name, what in outcome.failed.items():
            job.say(f"  {name}: {what}")
