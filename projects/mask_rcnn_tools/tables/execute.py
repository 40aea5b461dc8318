"""Runs jobs concurrently, each in its own process. A job that fails does not end the others."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Literal

from mask_rcnn_repro.errors import RecordError
from mask_rcnn_repro.records.record import load_record
from mask_rcnn_tools.tables.cost import format_seconds, simulate
from mask_rcnn_tools.tables.jobs import Job
from mask_rcnn_tools.tables.process import Process, is_held, tail
from mask_rcnn_tools.tables.progress import Display, RunView, last_step
from mask_rcnn_tools.tables.usable_records import counts

State = Literal["waiting", "running", "done", "failed", "blocked"]

_POLL_SECONDS = 0.5
_GRACE_SECONDS = 120.0


@dataclass(frozen=True)
class Slot:
    """The part of this machine that a job may use.

    Attributes:
        gpus: Values for CUDA_VISIBLE_DEVICES. Empty on the CPU.
        threads: CPU threads. None: the run decides.
    """

    gpus: tuple[str, ...] = ()
    threads: int | None = None

    def environment(self) -> dict[str, str]:
        """Returns the changes to the environment of a process."""
        changes = {}
        if self.gpus:
            changes["CUDA_VISIBLE_DEVICES"] = ",".join(self.gpus)
        if self.threads is not None:
            changes["OMP_NUM_THREADS"] = str(self.threads)
        return changes


@dataclass
class Ending:
    """How the jobs ended.

    Attributes:
        states: State of every job.
        reasons: Why jobs failed or could not start.
        stopped_by: Signal that ended all jobs early. None if there was none.
    """

    states: dict[Job, State] = field(default_factory=dict)
    reasons: dict[Job, str] = field(default_factory=dict)
    stopped_by: signal.Signals | None = None


@dataclass
class _Running:
    process: Process
    slot: Slot
    since: float
    first: int | None = None  # iteration that it was at when first seen: it may go on from there


class Executor:
    """Runs jobs, inputs first.

    Args:
        jobs: Inputs before what needs them.
        command: Program that takes the arguments of a job.
        slots: One for each job that runs concurrently.
        logs: Directory for their output.
        seconds: Estimate for each job.
        title: Title of the progress.
        extra: Further arguments of every job.
        period: Seconds between lines of progress if there is no terminal.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        command: Sequence[str],
        slots: Sequence[Slot],
        logs: Path,
        seconds: Mapping[Job, float],
        title: str,
        extra: Sequence[str] = (),
        period: float = 60.0,
    ) -> None:
        self.jobs = tuple(jobs)
        self.command = tuple(command)
        self.free = list(slots)
        self.slots = len(slots)
        self.logs = logs
        self.seconds = dict(seconds)
        self.extra = tuple(extra)
        self.ending = Ending(dict.fromkeys(self.jobs, "waiting"))
        self.running: dict[Job, _Running] = {}
        self.elsewhere: set[Job] = set()
        self.pace = 1.0
        self.display = Display(
            title, sum(self.seconds[job] for job in self.jobs), len(self.jobs), self.slots, period
        )

    def run(self) -> Ending:
        """Runs all jobs. Returns early after SIGINT or SIGTERM, when no job runs any more."""
        try:
            with self._signals():
                while self._in_state("waiting") or self.running:
                    if self.ending.stopped_by is not None:
                        self._stop()
                        break
                    self._reap()
                    self._start()
                    self._show()
                    time.sleep(_POLL_SECONDS)
        finally:
            for work in self.running.values():  # nothing is left behind by a fault of this program
                work.process.ask_to_stop()
            self.display.close()
        return self.ending

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def note(number: int, frame: FrameType | None) -> None:
            if self.ending.stopped_by is not None:  # asked twice: no more patience
                for work in self.running.values():
                    work.process.kill()
            self.ending.stopped_by = signal.Signals(number)

        kept = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in kept.items():
                signal.signal(number, handler)

    def _in_state(self, state: State) -> list[Job]:
        return [job for job in self.jobs if self.ending.states[job] == state]

    def _start(self) -> None:
        for job in self._in_state("waiting"):
            stages = [stage for _, stage in job.inputs]
            known = [self.ending.states.get(stage, "done") for stage in stages]
            lost = [s for s, k in zip(stages, known, strict=True) if k in ("failed", "blocked")]
            if lost:
                self.ending.states[job] = "blocked"
                self.ending.reasons[job] = f"needs {lost[0].name}, which failed"
                self.display.event(f"not run  {job.name}: {self.ending.reasons[job]}")
            elif self.free and all(k == "done" for k in known):
                self._start_or_wait(job)

    def _start_or_wait(self, job: Job) -> None:
        if is_held(job.folder):
            if job not in self.elsewhere:
                self.display.event(f"waiting  {job.name}: another process is at work in its folder")
            self.elsewhere.add(job)
            return
        if job in self.elsewhere:
            self.elsewhere.discard(job)
            if self._has_record(job):
                self.ending.states[job] = "done"
                self.display.event(f"done     {job.name}, by the other process")
                return
        slot = self.free.pop(0)
        process = Process(
            [*self.command, *job.arguments(self._extra(job, slot))],
            self.logs / f"{job.slug}.log",
            slot.environment(),
        )
        self.running[job] = _Running(process, slot, time.monotonic())
        self.ending.states[job] = "running"
        where = f" on GPU {','.join(slot.gpus)}" if slot.gpus else ""
        self.display.event(f"started  {job.name}{where}")

    def _extra(self, job: Job, slot: Slot) -> list[str]:
        extra = list(self.extra)
        given = any(o.startswith("train.num_threads=") for o in job.overrides)
        if slot.threads is not None and not given:
            extra.append(f"train.num_threads={slot.threads}")
        return extra

    def _reap(self) -> None:
        for job, work in list(self.running.items()):
            code = work.process.exit_code
            if code is None:
                continue
            del self.running[job]
            self.free.append(work.slot)
            took = format_seconds(time.monotonic() - work.since)
            if code == 0 and self._has_record(job):
                self.ending.states[job] = "done"
                self.display.event(f"done     {job.name}, {took}")
            elif code == 2 and is_held(job.folder):  # another process was quicker
                self.ending.states[job] = "waiting"
            else:
                self._fail(job, code, work.process.log)

    def _has_record(self, job: Job) -> bool:
        try:
            record = load_record(job.record_file)
        except RecordError:
            return False
        return job.kind == "server" or counts(job, record)

    def _fail(self, job: Job, code: int, log: Path) -> None:
        how = f"exit status {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
        if code == 0:
            how = "it ended without a record that counts"
        self.ending.states[job] = "failed"
        self.ending.reasons[job] = f"{how}; its output is in {log}"
        lines = "".join(f"\n    {line}" for line in tail(log).splitlines())
        self.display.event(f"FAILED   {job.name}: {self.ending.reasons[job]}{lines}")

    def _stop(self) -> None:
        self.display.event("Stopping; what runs saves its state first (again: at once).")
        for work in self.running.values():
            work.process.ask_to_stop()
        deadline = time.monotonic() + _GRACE_SECONDS
        for job, work in self.running.items():
            while not work.process.wait(0.2):
                if time.monotonic() > deadline:
                    work.process.kill()
            self.ending.states[job] = "waiting"
        self.running.clear()

    def _show(self) -> None:
        views, left = [], {}
        for job, work in self.running.items():
            step = last_step(job.folder)
            done = 0 if step is None else step.iteration
            if step is not None and work.first is None:
                work.first = done
            views.append(RunView(job.name, done, job.iterations))
            left[job] = self._seconds_left(job, work, done)
        waiting = self._in_state("waiting")
        pace = self._pace()
        seconds = {job: self.seconds[job] * pace for job in waiting}
        remaining = sum(seconds.values()) + sum(left.values())
        total = sum(self.seconds[job] for job in self.jobs) * pace
        fraction = min(max(1 - remaining / total, 0.0), 1.0) if total else 1.0
        done_jobs = len(self._in_state("done"))
        lost = len(self._in_state("failed")) + len(self._in_state("blocked"))
        eta = simulate(waiting, seconds, self.slots, left)
        self.display.update(views, done_jobs, lost, fraction, eta)

    def _seconds_left(self, job: Job, work: _Running, done: int) -> float:
        passed = time.monotonic() - work.since
        fresh = done - (work.first or 0)
        if job.iterations and fresh >= max(1, job.iterations // 50):
            # from what was seen, starting up included, which the end with its evaluation resembles
            return passed / fresh * max(job.iterations - done, 0)
        whole = self.seconds[job]
        part = 1 - done / job.iterations if job.iterations else 1.0
        return max(whole * part - passed, 0.05 * whole)

    def _pace(self) -> float:
        """Measured divided by estimated seconds. 1 until a running job has been measured."""
        ratios = []
        for job, work in self.running.items():
            step = last_step(job.folder)
            fresh = 0 if step is None else step.iteration - (work.first or 0)
            if job.iterations and fresh >= max(1, job.iterations // 20):
                passed = time.monotonic() - work.since
                ratios.append(passed / fresh * job.iterations / self.seconds[job])
        if ratios:
            self.pace = min(max(sum(ratios) / len(ratios), 0.05), 20.0)
        return self.pace


def visible_gpus(count: int) -> list[str]:
    """Returns names of the GPUs of this process, for CUDA_VISIBLE_DEVICES of others.

    Args:
        count: Number of GPUs that torch sees.
    """
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [name.strip() for name in given.split(",")] if given else []
    return names[:count] if len(names) >= count else [str(index) for index in range(count)]
