"""Prediction on image files, batch by batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mask_rcnn_repro.data.loading.images import read_image
from mask_rcnn_repro.errors import DataError
from mask_rcnn_tools.drawing.files import write_picture
from mask_rcnn_tools.predict.job import Job
from mask_rcnn_tools.predict.prediction import reason_of
from mask_rcnn_tools.predict.predictor import Picture
from mask_rcnn_tools.predict.sources import Source


def predict_images(job: Job, batch: Sequence[Source], ids: Mapping[Path, int | str]) -> None:
    """Predicts on a batch of images. Reports unreadable images as failed.

    Args:
        job: State of the command.
        batch: Images.
        ids: Maps paths to image ids.
    """
    job.timer.start()
    good: list[tuple[Source, Picture]] = []
    for source in batch:
        try:
            record = {"file_name": str(source.path), "image_bits": job.predictor.image_bits}
            pixels = read_image(record, job.predictor.image_format)
            number = job.summary.images + len(good)
            picture = job.predictor.prepare(pixels, ids[source.path], number)
        except DataError as error:
            job.fail(source, reason_of(error, source.path))
        else:
            good.append((source, picture))
    job.timer.stop("reading")
    if not good:
        return
    all_results = job.predict([picture for _, picture in good])
    lines = []
    for (source, picture), results in zip(good, all_results, strict=True):
        height, width = picture.pixels.shape[:2]
        if job.coco is not None:
            image = {"id": picture.image_id, "file_name": source.name}
            job.coco.add({**image, "width": width, "height": height}, results)
        selected = job.select(results)
        if job.options.pictures:
            try:
                write_picture(job.files[source].drawn, job.draw(picture.pixels, selected))
            except OSError:  # no picture can be written
                raise
            except Exception as error:  # the predictions of all images are kept
                job.summary.failed[source.name] = f"not drawn: {type(error).__name__}: {error}"
        best = max((result["score"] for result in results), default=None)
        lines.append((source.name, f"{width} x {height}  {job.describe(selected, best)}"))
    job.timer.stop("drawing and writing")
    milliseconds = 1000 * job.timer.last["model"] / len(good)
    job.timer.count(len(good))
    for name, line in lines:
        job.report(name, f"{line}  {milliseconds:.0f} ms")
