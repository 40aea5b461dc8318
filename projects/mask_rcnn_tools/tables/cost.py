"""Estimates how long runs take, from records on a similar device or else from a stated guess."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from mask_rcnn_repro.records.record import Record
from mask_rcnn_tools.evidence.rows import parent_of
from mask_rcnn_tools.tables.jobs import Job

START_SECONDS = 12.0
"""Seconds until a run computes: imports, config, model."""

_GUESS = {  # seconds: of an iteration, of an image's evaluation
    ("tiny", "cpu"): (0.2, 0.1),
    ("mini", "cpu"): (0.4, 0.1),
    ("paper", "cpu"): (90.0, 4.0),
    ("tiny", "cuda"): (0.05, 0.05),
    ("mini", "cuda"): (0.1, 0.05),
    ("paper", "cuda"): (1.0, 0.1),
}
"""Seconds for 16 images per iteration at full scale, on a GPU of 2020 or later or two CPU cores."""

_GUESSED_IMAGES = {"tiny": 8, "mini": 1500, "paper": 5000}
_GUESSED_STORED = {"tiny": 24, "mini": 7500, "paper": 123_000}
"""Number of training and test images. An RPN stage stores proposals for them."""


@dataclass(frozen=True)
class Device:
    """The device of the runs.

    Attributes:
        type: `cpu` or `cuda`.
        name: Model, as in records.
    """

    type: str
    name: str


@dataclass(frozen=True)
class Estimate:
    """Estimated duration of a run.

    Attributes:
        seconds: From its start to its record.
        source: What the estimate is based on.
    """

    seconds: float
    source: str


def estimate(job: Job, records: Iterable[Record], device: Device, processes: int = 1) -> Estimate:
    """Estimates the wall-clock time of a run.

    Records of the same config are preferred, then those of configs in its directory, then those of
    any config of the profile on similar data. Among these, records of the same device are
    preferred to those of a similar one.

    An RPN stage also stores proposals. No record has that time, so each image counts as in the
    evaluation of the stage.

    Args:
        job: The run.
        records: Known records.
        device: Device of the run.
        processes: Number of processes that share its images.
    """
    known = [
        r
        for r in records
        if r.config.profile == job.profile
        and r.device.type == device.type
        and r.mode == "train"
        and r.train_data is not None
        and _kind_of_data(r.train_data.name) == _kind_of_data(str(_train_names(job)))
    ]
    per_iteration, how = _seconds_per_iteration(job, known, device)
    if per_iteration is None:
        per_iteration, how = _GUESS[job.profile, device.type][0], ""
    images, per_image, how_images = _evaluation(job, known, device)
    seconds = START_SECONDS + (job.iterations * per_iteration) / processes
    if job.iterations == 0 or not how:  # the seconds of a training hold its evaluation
        seconds += images * per_image / processes
    if job.iterations > 0 and job.run.is_rpn:
        seconds += _stored_images(job, known) * per_image / processes
    if job.iterations == 0:
        source = how_images or f"guess: {per_image:g} s an image"
    else:
        source = how or f"guess: {per_iteration:g} s an iteration"
    return Estimate(seconds, source)


def _stored_images(job: Job, records: Sequence[Record]) -> int:
    """Returns the number of images for which an RPN stage stores proposals."""
    counts = [
        r.train_data.images + r.test_data.images
        for r in sorted(records, key=lambda r: r.config.hash == job.hash)
        if r.train_data is not None
        and r.test_data is not None
        and r.train_data.name == str(_train_names(job))
    ]
    return counts[-1] if counts else _GUESSED_STORED[job.profile]


def _train_names(job: Job) -> Any:
    return job.cfg.dataloader.train.dataset.names


def _kind_of_data(name: str) -> str:
    """Returns the kind of images of a data set. Images of a kind take equally long."""
    return next(
        (kind for kind in ("cityscapes", "crops", "embedded", "coco") if kind in name), name
    )


def _seconds_per_iteration(
    job: Job, records: Sequence[Record], device: Device
) -> tuple[float | None, str]:
    trained = [r for r in records if r.training_seconds and r.iterations_done]
    if job.iterations == 0 or not trained:
        return None, ""
    similar, how = _most_similar(job, trained, device)
    speeds = [(r.training_seconds or 0.0) / (r.iterations_done or 1) for r in similar]
    # one that was continued counts its last part alone, one that was suspended counts the pause
    return median(speeds), how


def _evaluation(job: Job, records: Sequence[Record], device: Device) -> tuple[int, float, str]:
    """Returns the number of test images, the seconds for one, and what this is based on."""
    timed = [r for r in records if r.seconds_per_image is not None and r.test_data is not None]
    views = 1
    if job.cfg.train.tta.enabled:
        own = [r for r in timed if r.config.id == job.config_id]
        if not own:  # the time of one view is known at best
            tta = job.cfg.train.tta
            views = (len(tta.sizes) if tta.sizes else 9) * (2 if tta.flip else 1)
            own = [r for r in timed if r.iterations_planned > 0]
        timed = own
    if not timed:
        guess = _GUESS[job.profile, device.type][1]
        return _GUESSED_IMAGES[job.profile], guess * views, ""
    similar, how = _most_similar(job, timed, device)
    images = max(r.test_data.images for r in similar if r.test_data is not None)
    seconds = median(r.seconds_per_image.total for r in similar if r.seconds_per_image is not None)
    return images, seconds * views, how + (f", {views} views" if views > 1 else "")


def _most_similar(job: Job, records: Sequence[Record], device: Device) -> tuple[list[Record], str]:
    folder = job.config_id.partition("/")[0] + "/"
    kinds: dict[str, Callable[[Record], bool]] = {
        "its own record": lambda r: r.config.id == job.config_id or r.config.hash == job.hash,
        "record of its parent": lambda r: r.config.id == parent_of(job.config),
        f"records of {folder}": lambda r: r.config.id.startswith(folder),
        f"records at {job.profile}": lambda r: True,
    }
    for how, fits in kinds.items():
        fitting = [r for r in records if fits(r)]
        same = [r for r in fitting if r.device.name == device.name]
        if same:
            return same, how
        if fitting:
            return fitting, f"{how} on {fitting[-1].device.name}"
    raise AssertionError("the last kind fits every record")


def simulate(
    jobs: Sequence[Job],
    seconds: Mapping[Job, float],
    slots: int,
    running: Mapping[Job, float] | None = None,
) -> float:
    """Returns the wall-clock seconds until all jobs are done, started in the order given.

    Args:
        jobs: Waiting jobs, inputs before what needs them.
        seconds: Estimate for each job.
        slots: Number of jobs that run concurrently, at least 1.
        running: Remaining seconds of the running jobs.
    """
    ends = dict(running or {})
    free = sorted([*ends.values(), *[0.0] * max(0, slots - len(ends))])[: max(slots, 1)]
    waiting = list(jobs)
    while waiting:
        now = free.pop(0)

        def ready_at(job: Job) -> float:
            return max((ends.get(stage, 0.0) for _, stage in job.inputs), default=0.0)

        startable = [j for j in waiting if all(s not in waiting for _, s in j.inputs)]
        job = next((j for j in startable if ready_at(j) <= now), None)
        job = job or min(startable, key=ready_at)
        waiting.remove(job)
        ends[job] = max(now, ready_at(job)) + seconds[job]
        free = sorted([*free, ends[job]])
    return max(ends.values(), default=0.0)


def format_seconds(seconds: float) -> str:
    """Formats a duration, such as `40 s`, `12 min`, `3 h 20 min`, `4.5 days`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes / 60 / 24:.1f} days"
