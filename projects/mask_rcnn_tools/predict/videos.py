"""Prediction on videos and cameras, frame by frame, in constant memory."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import IO, Any

from mask_rcnn_repro.errors import DataError
from mask_rcnn_repro.utils.atomic import atomic_write
from mask_rcnn_tools.predict.job import Job
from mask_rcnn_tools.predict.output_files import FRAMES, VIDEOS, OutputFiles
from mask_rcnn_tools.predict.prediction import Results
from mask_rcnn_tools.predict.predictor import Picture
from mask_rcnn_tools.predict.sources import Source
from mask_rcnn_tools.predict.video_io import Frame, FrameReader, VideoWriter

_PROGRESS_SECONDS = 5.0


def predict_video(job: Job, source: Source) -> None:
    """Predicts on a video file. Reports it as failed if it cannot be read or ends early."""
    started = time.perf_counter()
    try:
        reader = FrameReader(source.path, job.options.every, job.options.max_frames)
        count = _predict_frames(job, reader, source.name, job.files[source], live=False)
    except DataError as error:
        job.fail(source, str(error))
        return
    if reader.ended_early(count):
        job.fail(
            source,
            f"ends after {reader.decoded} of about {reader.expected} frames: the rest cannot be "
            "decoded; predictions on these frames are written",
        )
    elif not count:
        job.fail(source, "not a single frame can be decoded")
    else:
        each = 1000 * (time.perf_counter() - started) / count
        job.report(source.name, f"{count} frames  {each:.0f} ms each")


def predict_camera(job: Job, number: int, reader: FrameReader) -> None:
    """Predicts on the frames of a camera until Ctrl-C, `max_frames`, or its end.

    Frames that arrive while the model computes are lost. The video repeats each frame for as long
    as it took, so it plays in real time.

    Args:
        job: State of the command.
        number: Number of the camera, for file names.
        reader: Reader of the camera; closed here.
    """
    name = f"webcam{number}"
    output = job.options.output
    files = OutputFiles(output / VIDEOS / f"{name}.mp4", output / FRAMES / f"{name}.jsonl")
    job.print_line(f"Reading camera {number}; Ctrl-C ends it.")
    count = _predict_frames(job, reader, name, files, live=True)
    job.report(name, f"{count} frames")


def _predict_frames(
    job: Job, reader: FrameReader, name: str, files: OutputFiles, live: bool
) -> int:
    """Returns the number of frames. Keeps earlier results on Ctrl-C."""
    frames = _Frames(job, reader, name, files, live)
    stopped = None
    try:
        frames.run()
    except KeyboardInterrupt as error:
        stopped = error
    except BaseException as error:
        frames.discard(error)
        raise
    finally:
        reader.close()
    frames.close()
    if job.coco is not None and frames.count:
        job.coco.videos.append(frames.facts(len(job.coco.videos) + 1, name))
    if stopped is not None and not live:
        raise stopped
    return frames.count


class _Frames:
    """Predicts on the frames of one video and writes its files."""

    def __init__(
        self, job: Job, reader: FrameReader, name: str, files: OutputFiles, live: bool
    ) -> None:
        self._job, self._reader, self._name, self._files = job, reader, name, files
        self._live = live
        self._stack = ExitStack()
        self._writer: VideoWriter | None = None
        self._stream: IO[str] | None = None
        self._size = (0, 0)
        self._written = 0
        self._started = time.perf_counter()
        self.count = 0
        if job.options.pictures:
            files.drawn.parent.mkdir(parents=True, exist_ok=True)
            self._writer = VideoWriter(files.drawn, reader.rate)
        if job.options.json:
            assert files.frames is not None
            files.frames.parent.mkdir(parents=True, exist_ok=True)
            self._stream = self._stack.enter_context(atomic_write(files.frames, text=True))

    def run(self) -> None:
        """Predicts on all frames."""
        job = self._job
        last = time.perf_counter()
        job.timer.start()
        for batch in self._batches():
            bgr = job.predictor.image_format == "BGR"
            pictures = [
                job.predictor.prepare(f.pixels if bgr else f.pixels[:, :, ::-1], f.index, f.index)
                for f in batch
            ]
            job.timer.stop("reading")
            for frame, picture, results in zip(batch, pictures, job.predict(pictures), strict=True):
                self._write(frame, picture, results)
            job.timer.stop("drawing and writing")
            job.timer.count(len(batch))
            now = time.perf_counter()
            if now - last > _PROGRESS_SECONDS:
                last = now
                expected = self._reader.expected
                of = f" of about {expected}" if expected else ""
                job.print_line(f"  {self._name}: frame {self._reader.decoded}{of}")
            job.timer.start()

    def _batches(self) -> Iterator[Sequence[Frame]]:
        frames = iter(self._reader)
        while batch := list(itertools.islice(frames, self._job.options.batch_size)):
            yield batch

    def _write(self, frame: Frame, picture: Picture, results: Results) -> None:
        job = self._job
        self.count += 1
        self._size = picture.pixels.shape[:2]
        if self._stream is not None:
            kept = [{k: v for k, v in r.items() if k != "image_id"} for r in results]
            row = {"frame": frame.index, "seconds": round(frame.seconds, 4), "results": kept}
            self._stream.write(json.dumps(row, separators=(",", ":")) + "\n")
        if self._writer is not None:
            try:
                self._draw(self._writer, picture, results)
            except Exception as error:
                if self._stream is None or isinstance(error, OSError):
                    raise
                # the predictions are kept
                self._writer.discard()
                self._writer = None
                job.summary.failed[self._name] = f"not drawn: {type(error).__name__}: {error}"

    def _draw(self, writer: VideoWriter, picture: Picture, results: Results) -> None:
        drawn = self._job.draw(picture.pixels, self._job.select(results))
        times = 1
        if self._live:
            elapsed = time.perf_counter() - self._started
            times = repetitions(elapsed, self._reader.rate, self._written)
        writer.write(drawn, times)
        self._written += times

    def facts(self, identity: int, name: str) -> dict[str, Any]:
        """Returns the row of the video in the predictions file."""
        height, width = self._size
        facts = {"id": identity, "file_name": name, "width": width, "height": height}
        facts.update(frames=self.count, fps=self._reader.rate)
        if self._files.frames is not None:
            output = self._job.options.output
            facts["results"] = self._files.frames.relative_to(output).as_posix()
        return facts

    def close(self) -> None:
        """Completes the files. Without a frame there are none."""
        if not self.count:
            self.discard(DataError("no frame"))
            return
        if self._writer is not None:
            self._writer.close()
        self._stack.close()

    def discard(self, error: BaseException) -> None:
        """Deletes the incomplete files."""
        if self._writer is not None:
            self._writer.discard()
        self._stack.__exit__(type(error), error, None)


def repetitions(seconds: float, rate: float, written: int) -> int:
    """Returns how often to write a live picture so that the video plays in real time.

    Args:
        seconds: Seconds since the start of the video.
        rate: Frames per second.
        written: Frames written so far.

    Returns:
        At least 1.
    """
    return max(1, round(seconds * rate) - written)
