"""Progress of runs, read from the files that they write, and how it is shown."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from mask_rcnn_tools.tables.cost import format_seconds

METRICS_FILE = "metrics.json"
_TAIL_BYTES = 64 * 1024


class Step(NamedTuple):
    """The state of a training.

    Attributes:
        iteration: Number of iterations done.
        seconds: Duration of a recent iteration. None if it is not written.
    """

    iteration: int
    seconds: float | None


def last_step(folder: Path) -> Step | None:
    """Returns the last training step that a run has written. None before the first.

    Args:
        folder: Directory of the run. An incomplete last line is ignored.
    """
    try:
        with (folder / METRICS_FILE).open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        try:
            row: Any = json.loads(line)
        except ValueError:  # cut at either end
            continue
        if isinstance(row, dict) and isinstance(row.get("iteration"), int):
            seconds = row.get("time")
            return Step(row["iteration"], seconds if isinstance(seconds, float) else None)
    return None


class RunView(NamedTuple):
    """A running job as it is shown.

    Attributes:
        name: Name of the job.
        done: Iterations done.
        total: All iterations. 0 for evaluations.
    """

    name: str
    done: int
    total: int

    def text(self) -> str:
        """Text such as `table2c/roi_pool_max seed 0 (540/1000)`."""
        if self.total == 0 or self.done >= self.total:
            return f"{self.name} (evaluating)" if self.done or not self.total else self.name
        return f"{self.name} ({self.done}/{self.total})" if self.done else f"{self.name} (starting)"


class Display:
    """Shows the progress of a whole table: bars on a terminal, otherwise a line from time to time.

    Args:
        title: Title of the table.
        total_seconds: Estimate for all runs together.
        jobs: Number of runs.
        slots: Number of concurrent runs.
        period: Seconds between lines if there is no terminal.
    """

    def __init__(
        self, title: str, total_seconds: float, jobs: int, slots: int, period: float = 60.0
    ) -> None:
        self._jobs = jobs
        self._period = period
        self._last = time.monotonic()
        self._bars: list[Any] = []
        self._title = title
        if sys.stdout.isatty() and jobs:
            tqdm.monitor_interval = 0  # no thread: processes are forked from here
            # a terminal of unknown width has 0 columns, in which nothing could be shown
            width = min(shutil.get_terminal_size().columns, 120)
            form = "{percentage:3.0f}%|{bar:20}| {desc}"
            totals = [max(total_seconds, 1.0), *[1.0] * slots]
            self._bars = [
                tqdm(total=total, position=place, bar_format=form, ncols=width, leave=not place)
                for place, total in enumerate(totals)
            ]

    def event(self, text: str) -> None:
        """Prints a line above the bars."""
        if self._bars:
            self._bars[0].write(text)
        else:
            print(text, flush=True)

    def update(
        self, running: Sequence[RunView], done: int, failed: int, fraction: float, left: float
    ) -> None:
        """Updates the progress.

        Args:
            running: Running jobs.
            done: Number of jobs that succeeded.
            failed: Number of jobs that failed, or that cannot start because others failed.
            fraction: Part of the whole work that is done, 0 to 1.
            left: Estimated seconds until all jobs are done.
        """
        summary = f"{done} of {self._jobs} runs done"
        summary += f", {failed} failed" if failed else ""
        summary += f", {format_seconds(left)} left"
        if self._bars:
            overall, *slots = self._bars
            overall.n = fraction * overall.total
            overall.set_description_str(f"{self._title}: {summary}", refresh=False)
            overall.refresh()
            for bar, view in zip(slots, [*running, *[None] * len(slots)], strict=False):
                bar.n = 0.0 if view is None or not view.total else min(view.done / view.total, 1.0)
                text = "idle" if view is None else view.text()
                bar.set_description_str(text, refresh=False)
                bar.refresh()
        elif time.monotonic() - self._last >= self._period:
            self._last = time.monotonic()
            at_work = "; ".join(view.text() for view in running) or "waiting"
            print(f"{self._title} {100 * fraction:.0f} %: {summary}. {at_work}", flush=True)

    def close(self) -> None:
        """Closes the bars. Further lines are printed below them."""
        for bar in reversed(self._bars):
            bar.close()
        self._bars = []
