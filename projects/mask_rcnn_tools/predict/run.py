"""Prediction on all inputs of a command."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mask_rcnn_tools.predict.coco_writer import categories_of, coco_writer
from mask_rcnn_tools.predict.images import predict_images
from mask_rcnn_tools.predict.job import Job, Options, PredictionSummary
from mask_rcnn_tools.predict.output_files import (
    FRAMES,
    PICTURES,
    PREDICTIONS,
    VIDEOS,
    plan_output_files,
)
from mask_rcnn_tools.predict.predictor import Predictor
from mask_rcnn_tools.predict.sources import Sources
from mask_rcnn_tools.predict.video_io import FrameReader
from mask_rcnn_tools.predict.videos import predict_camera, predict_video


def predict_files(
    predictor: Predictor,
    sources: Sources,
    options: Options,
    *,
    image_ids: Mapping[Path, int | str] | None = None,
    info: Mapping[str, Any] | None = None,
    camera: int | None = None,
    print_line: Callable[[str], None] = print,
) -> PredictionSummary:
    """Predicts on all files and a camera. Reports and skips files that cannot be read.

    Args:
        predictor: The model.
        sources: Images and videos; may be empty if there is a camera.
        options: The options.
        image_ids: Maps the path of every image to its id; None counts from 1 in file order.
        info: Content of "info" in the predictions file.
        camera: Number of a camera, which is read after the files until Ctrl-C; None: none.
        print_line: Prints one line per file, and the summary.

    Raises:
        ConfigError: A result would overwrite an input.
        DataError: There is no such camera, or a video cannot be written.
        OSError: Results cannot be written.
    """
    files = plan_output_files(options.output, sources.files)
    reader = None
    if camera is not None:  # fails before the files are processed, not after
        reader = FrameReader(camera, options.every, options.max_frames)
    images = [source for source in sources.files if not source.is_video]
    ids = image_ids or {source.path: number for number, source in enumerate(images, start=1)}
    job = Job(predictor, options, files, print_line)
    facts: dict[str, Any] = {**(info or {}), "image_root": str(sources.root)}
    with ExitStack() as stack:
        if options.json:
            categories = categories_of(predictor.classes, predictor.metadata, predictor.keypoints)
            file = options.output / PREDICTIONS
            job.coco = stack.enter_context(coco_writer(file, categories, facts))
        try:
            for start in range(0, len(images), options.batch_size):
                predict_images(job, images[start : start + options.batch_size], ids)
            for source in sources.files:
                if source.is_video:
                    predict_video(job, source)
            if camera is not None and reader is not None:
                predict_camera(job, camera, reader)
        except KeyboardInterrupt:
            job.summary.stopped = True
        failed = [{"file_name": f, "error": e} for f, e in job.summary.failed.items()]
        facts.update(failed=failed, stopped=job.summary.stopped)
    _print_summary(job)
    return job.summary


def _print_summary(job: Job) -> None:
    summary, output, print_line = job.summary, job.options.output, job.print_line
    seconds = job.timer.seconds_per_image()
    times = ", ".join(f"{phase} {1000 * value:.0f}" for phase, value in seconds.items())
    print_line("")
    print_line(
        f"{summary.images} image{'s' * (summary.images != 1)}"
        + (f", {1000 * sum(seconds.values()):.0f} ms each ({times})" if seconds else "")
        + (", stopped early" if summary.stopped else "")
    )
    videos = (output / VIDEOS).is_dir() or (output / FRAMES).is_dir()
    for there, what, place in (
        (job.options.pictures and (output / PICTURES).is_dir(), "Pictures", PICTURES),
        (job.options.pictures and videos, "Videos", VIDEOS),
        (job.options.json and videos, "Frame by frame", FRAMES),
        (job.options.json, "Predictions", PREDICTIONS),
    ):
        if there:
            print_line(f"{what}: {output / place}")
    if summary.failed:
        print_line(f"{len(summary.failed)} of {len(job.files)} files failed:")
        for name, error in summary.failed.items():
            print_line(f"  {name}: {error}")
