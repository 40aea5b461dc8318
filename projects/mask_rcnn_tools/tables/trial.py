"""Measures on a CPU how many runs side by side get the most iterations done."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from mask_rcnn_repro.engine.run import METRICS_FILE
from mask_rcnn_repro.utils.atomic import atomic_write_text
from mask_rcnn_tools.tables.jobs import Job
from mask_rcnn_tools.tables.process import Process, tail

FILE = "side_by_side.json"
"""In a table's directory: what was measured, so that it is measured once."""

WORTH_SECONDS = 1200.0
"""Estimated work from which on a trial of about a minute is worth its time."""

_ITERATIONS, _LIMIT = 24, 40.0  # of a trial; seconds from the first iteration
_START_LIMIT = 180.0  # seconds until the first iteration
_POLL_SECONDS = 0.01

Measure = Callable[[int, int], float]


def best_count(most: int, cores: int, file: Path, measure: Measure, about: str) -> tuple[int, str]:
    """Returns how many runs side by side are fastest, and a sentence that says why.

    Tried are `most`, half of it and so on down to one, with an equal share of the cores each.

    Args:
        most: Runs that may be side by side, at least 2.
        cores: Cores that may be used.
        file: Where the result is kept. A result for the same cores and the same `about` is used
            again.
        measure: From runs side by side and threads of each to iterations a second of all together.
            RuntimeError: it cannot be measured; then the answer is `most`.
        about: The machine and what was measured on it.
    """
    counts = [most]
    while counts[-1] > 1:
        counts.append(counts[-1] // 2)
    known = {"about": about, "cores": cores}
    rates = _kept(file, known)
    if rates is None or not set(counts) <= set(rates):
        try:
            rates = {count: measure(count, max(1, cores // count)) for count in counts}
        except RuntimeError as error:
            return most, f"Side by side: {most}; other numbers could not be tried: {error}"
        kept = {**known, "iterations_per_second": rates}
        file.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(file, json.dumps(kept, indent=2) + "\n")
    best = max(counts, key=lambda count: rates[count])
    measured = ", ".join(f"{count}: {rates[count]:.2f}" for count in counts)
    return best, (
        f"Side by side: {best}, with {max(1, cores // best)} thread(s) each. Iterations a second "
        f"of all together, by runs side by side: {measured} ({file}). train.num_threads=N keeps "
        f"--jobs {most}."
    )


def _kept(file: Path, known: dict[str, object]) -> dict[int, float] | None:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if {key: content[key] for key in known} == known:
            return {int(n): float(rate) for n, rate in content["iterations_per_second"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # absent or of another kind: measured anew
    return None


def trial_of(job: Job, command: Sequence[str], extra: Sequence[str] = ()) -> Measure:
    """Returns a function that trains a job for some iterations, in temporary directories.

    Args:
        job: A training whose stages are finished.
        command: What comes before a job's arguments.
        extra: Further arguments.
    """

    def measure(count: int, threads: int) -> float:
        with tempfile.TemporaryDirectory(prefix="trial-") as temporary:
            folders = [Path(temporary) / str(number) for number in range(count)]
            processes = []
            try:
                for folder in folders:
                    own = [f"train.output_dir={folder}", "train.log_period=1", "train.writers=[]"]
                    environment = {}
                    if count > 1:  # a run alone chooses by itself
                        own.append(f"train.num_threads={threads}")
                        environment["OMP_NUM_THREADS"] = str(threads)
                    arguments = job.arguments([*extra, *own])
                    log = folder.with_suffix(".txt")
                    processes.append(Process([*command, *arguments], log, environment))
                return count / seconds_per_iteration(processes, folders, _ITERATIONS, _LIMIT)
            finally:
                for process in processes:
                    process.kill()
                    process.wait(10)

    return measure


def seconds_per_iteration(
    processes: Sequence[Process], folders: Sequence[Path], most: int, limit: float
) -> float:
    """Watches trainings side by side until each has done enough, and kills them.

    Args:
        processes: The trainings.
        folders: Their output directories. Each logs every iteration.
        most: Iterations of each, at least 3.
        limit: Seconds after which it is enough, from the first iteration of the last to begin.

    Returns:
        Mean seconds of an iteration in the later half, averaged over the trainings.

    Raises:
        RuntimeError: One ended, or did not begin, before it had done 3 iterations.
    """
    ends: list[list[float]] = [[] for _ in folders]  # when each iteration was seen to end
    begin = time.perf_counter()
    try:
        while min(map(len, ends)) < most:
            now = time.perf_counter()
            for times, folder in zip(ends, folders, strict=True):
                file = folder / METRICS_FILE
                done = file.read_bytes().count(b"\n") if file.is_file() else 0
                times += [now] * (done - len(times))
            began = max(times[0] for times in ends) if all(ends) else None
            if now > (begin + _START_LIMIT if began is None else began + limit):
                break
            if any(process.exit_code is not None for process in processes):
                break
            time.sleep(_POLL_SECONDS)
    finally:
        for process in processes:
            process.kill()
            process.wait(10)
    for process, times in zip(processes, ends, strict=True):
        if len(times) < 3:
            raise RuntimeError(f"{len(times)} iterations were done. {tail(process.log)}".strip())
    return statistics.mean(mean_of_later_half(times[:most]) for times in ends)


def mean_of_later_half(ends: Sequence[float]) -> float:
    """Mean seconds of an iteration, from the times at which iterations ended, at least two."""
    later = ends[(len(ends) - 1) // 2 :]
    return (later[-1] - later[0]) / (len(later) - 1)
