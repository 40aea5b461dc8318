"""Predicting on videos and cameras: frame after frame, in constant memory."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from mask_rcnn_repro.errors import DataError
from mask_rcnn_repro.utils.atomic import atomic_write
from mask_rcnn_tools.predict.names import FRAMES, VIDEOS, Target
from mask_rcnn_tools.predict.predictor import Picture, Results
from mask_rcnn_tools.predict.run import Job
from mask_rcnn_tools.predict.sources import Source
from mask_rcnn_tools.predict.video import Frame, FrameReader, VideoWriter

_PROGRESS_SECONDS = 5.0


def predict_video(job: Job, source: Source) -> None:
    """Predicts on a video file; one that cannot be read, or ends early, is reported as failed."""
    try:
        reader = FrameReader(source.path, job.options.every, job.options.max_frames)
    except DataError as error:
        job.fail(source, str(error))
        return
    begun = time.perf_counter()
    try:
        given = _predict_frames(job, reader, source.name, job.targets[source], live=False)
    except DataError as error:
        job.fail(source, str(error))
        return
    if reader.ended_early(given):
        job.fail(
            source,
            f"ends after {reader.decoded} of about {reader.expected} frames: the rest cannot be "
            "decoded; predictions on these frames are written",
        )
    elif not given:
        job.fail(source, "not a single frame can be decoded")
    else:
        each = 1000 * (time.perf_counter() - begun) / given
        job.report(source.name, f"{given} frames  {each:.0f} ms each")


def predict_camera(job: Job, number: int, reader: FrameReader) -> None:
    """Predicts on a camera's pictures until Ctrl-C, `max_frames`, or its end.

    Frames that come while the model computes are lost; the video shows each picture for as long as
    it took, so that it runs as fast as what it shows.

    Args:
        job: What is shared.
        number: The camera's, for names.
        reader: Of the camera; closed here.
    """
    name = f"webcam{number}"
    output = job.options.output
    target = Target(output / VIDEOS / f"{name}.mp4", output / FRAMES / f"{name}.jsonl")
    job.say(f"Reading camera {number}; Ctrl-C ends it.")
    given = _predict_frames(job, reader, name, target, live=True)
    job.report(name, f"{given} frames")


def _predict_frames(job: Job, reader: FrameReader, name: str, target: Target, live: bool) -> int:
    """Returns how many frames were predicted on; what is done so far is kept on Ctrl-C."""
    frames = _Frames(job, reader, target, live)
    stopped = None
    try:
        frames.run(name)
    except KeyboardInterrupt as error:
        stopped = error
    except BaseException as error:
        frames.discard(error)
        raise
    finally:
        reader.close()
    frames.close()
    if job.coco is not None and frames.given:
        job.coco.videos.append(frames.facts(len(job.coco.videos) + 1, name))
    if stopped is not None and not live:
        raise stopped
    return frames.given


class _Frames:
    """The frames of one video on their way to its files."""

    def __init__(self, job: Job, reader: FrameReader, target: Target, live: bool) -> None:
        self._job, self._reader, self._target, self._live = job, reader, target, live
        self._stack = ExitStack()
        self._writer: VideoWriter | None = None
        self._stream: IO[str] | None = None
        self._size = (0, 0)
        self._shown = 0
        self._began = time.perf_counter()
        self.given = 0
        if job.options.pictures:
            target.drawn.parent.mkdir(parents=True, exist_ok=True)
            self._writer = VideoWriter(target.drawn, reader.rate)
        if job.options.json:
            assert target.frames is not None
            target.frames.parent.mkdir(parents=True, exist_ok=True)
            self._stream = self._stack.enter_context(atomic_write(target.frames, text=True))

    def run(self, name: str) -> None:
        """Predicts on all frames."""
        job = self._job
        last = time.perf_counter()
        job.clock.start()
        for batch in self._batches():
            bgr = job.predictor.image_format == "BGR"
            pictures = [
                job.predictor.prepare(f.pixels if bgr else f.pixels[:, :, ::-1], f.index, f.index)
                for f in batch
            ]
            job.clock.stop("reading")
            for frame, picture, results in zip(batch, pictures, job.predict(pictures), strict=True):
                self._write(frame, picture, results)
            job.clock.stop("drawing and writing")
            job.clock.count(len(batch))
            now = time.perf_counter()
            if now - last > _PROGRESS_SECONDS:
                last = now
                expected = self._reader.expected
                of = f" of about {expected}" if expected else ""
                job.say(f"  {name}: frame {self._reader.decoded}{of}")
            job.clock.start()

    def _batches(self) -> Iterator[Sequence[Frame]]:
        batch: list[Frame] = []
        for frame in self._reader:
            batch.append(frame)
            if len(batch) == self._job.options.batch_size:
                yield batch
                batch = []
        if batch:
            yield batch

    def _write(self, frame: Frame, picture: Picture, results: Results) -> None:
        job = self._job
        self.given += 1
        self._size = picture.pixels.shape[:2]
        if self._stream is not None:
            kept = [{k: v for k, v in r.items() if k != "image_id"} for r in results]
            row = {"frame": frame.index, "seconds": round(frame.seconds, 4), "results": kept}
            self._stream.write(json.dumps(row, separators=(",", ":")) + "\n")
        if self._writer is not None:
            drawn = job.drawn(picture.pixels, job.chosen(results))
            times = 1
            if self._live:
                passed = time.perf_counter() - self._began
                times = times_shown(passed, self._reader.rate, self._shown)
            self._writer.write(drawn, times)
            self._shown += times

    def facts(self, identity: int, name: str) -> dict[str, Any]:
        """The video in the predictions file."""
        height, width = self._size
        facts = {"id": identity, "file_name": name, "width": width, "height": height}
        facts.update(frames=self.given, fps=self._reader.rate)
        if self._target.frames is not None:
            facts["results"] = _relative(self._target.frames, self._job.options.output)
        return facts

    def close(self) -> None:
        """Completes the files; without a frame there are none."""
        if not self.given:
            self.discard(DataError("no frame"))
            return
        if self._writer is not None:
            self._writer.close()
        self._stack.close()

    def discard(self, error: BaseException) -> None:
        """Leaves nothing behind."""
        if self._writer is not None:
            self._writer.discard()
        self._stack.__exit__(type(error), error, None)


def times_shown(seconds: float, rate: float, shown: int) -> int:
    """How often a live picture is put into a video of `rate` frames a second.

    Args:
        seconds: Since the video began.
        rate: Frames a second.
        shown: Frames in it so far.

    Returns:
        As many frames as bring it up to now, at least one.
    """
    return max(1, round(seconds * rate) - shown)


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()
