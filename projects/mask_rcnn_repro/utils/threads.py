"""CPU threads of a process: how many, how they wait, and how many beside other busy processes.

OpenMP's threads spin while they wait for each other. If another process takes one of them off its
core, the others burn their time waiting for it: one busy process beside a training with a thread
per core can make it 40 times slower. Three things avoid that: threads spin for a short time only,
PyTorch's pool is the only one, and :class:`ThreadBalance` gives up the cores that others use.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

logger = logging.getLogger(__name__)


def usable_cores() -> set[int]:
    """Returns the cores on which this process may run (its affinity)."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Returns the number of cores that a control group allows, such as a container's, or None.

    Args:
        root: Directory that holds `proc` and `sys`.
    """
    limits = []
    names: tuple[str, ...]
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            base, names = root / "sys/fs/cgroup", ("cpu.max",)
        elif "cpu" in controllers.split(","):
            base, names = root / "sys/fs/cgroup/cpu", ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        else:
            continue
        group_folder = base / group.strip("/")
        for folder in (group_folder, *group_folder.parents):  # a parent's limit holds, too
            values = " ".join(_text(folder / name) for name in names).split()
            if len(values) == 2 and all(v.isdigit() and int(v) > 0 for v in values):  # not "max"
                limits.append(int(values[0]) / int(values[1]))
            if folder == base:
                break
    return min(limits, default=None)


def usable_cpus() -> int:
    """Returns the number of cores that this process may keep busy: its affinity, or its quota."""
    return max(1, min(len(usable_cores()), int(cpu_quota() or sys.maxsize)))


@dataclass(frozen=True)
class ThreadChoice:
    """Number of threads and why. A fixed number was set by the user and is not balanced."""

    count: int
    reason: str
    fixed: bool


def choose_threads(
    configured: int | None, environment: Mapping[str, str] = os.environ
) -> ThreadChoice:
    """Chooses the number of threads of this process.

    Args:
        configured: `train.num_threads`, which comes first.
        environment: `OMP_NUM_THREADS` comes second, :func:`usable_cpus` last.
    """
    if configured:
        return ThreadChoice(configured, "train.num_threads", fixed=True)
    first = environment.get("OMP_NUM_THREADS", "").split(",")[0]
    if first.isdigit() and int(first) > 0:
        return ThreadChoice(int(first), "OMP_NUM_THREADS", fixed=True)
    return ThreadChoice(usable_cpus(), "one for each core that this process may use", fixed=False)


def use_threads(configured: int | None) -> ThreadChoice:
    """Sets PyTorch's number of threads as :func:`choose_threads` says, and logs it."""
    import torch

    choice = choose_threads(configured)
    if not choice.fixed:  # PyTorch's default may be lower, such as the number of physical cores
        choice = replace(choice, count=min(choice.count, _default_threads()))
    torch.set_num_threads(choice.count)
    logger.info("CPU threads: %d (%s)", choice.count, choice.reason)
    return choice


@functools.cache
def _default_threads() -> int:
    import torch

    return torch.get_num_threads()


@dataclass(frozen=True)
class Usage:
    """Seconds since any fixed time.

    Attributes:
        wall: Clock.
        waited: Sum over this process' threads of the time in which they could have run but another
            process had the core.
        own: CPU time of this process.
        busy: CPU time of all processes on the usable cores.
    """

    wall: float
    waited: float
    own: float
    busy: float


def read_usage(cores: set[int], proc: Path = Path("/proc")) -> Usage | None:
    """Reads :class:`Usage` from Linux's `/proc`; None where that is not to be had."""
    try:
        tasks = [_text(task / "schedstat").split() for task in (proc / "self/task").iterdir()]
        waited = sum(int(fields[1]) for fields in tasks if len(fields) == 3) / 1e9
        names = {f"cpu{core}" for core in cores}
        lines = [line.split() for line in _text(proc / "stat").splitlines()]
        # user, nice, system, then idle and iowait, then irq, softirq, steal
        busy = [sum(map(int, f[1:4] + f[6:9])) for f in lines if f and f[0] in names]
        if not busy or not any(len(fields) == 3 for fields in tasks):
            return None
        ticks = os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return None
    return Usage(time.monotonic(), waited, time.process_time(), sum(busy) / ticks)


class ThreadBalance:
    """Gives up threads for the cores that other processes keep busy, and takes them back.

    Once a second it looks at how long its threads waited for a core. If they waited, it uses as
    many threads as cores are free; if cores have become free for some seconds, more again. On an
    idle machine it changes nothing. Numbers of threads differ in the last bits of results, so it is
    off if the number is fixed (:class:`ThreadChoice`) or `train.deterministic` is set.

    Args:
        most: Threads on an idle machine.
        set_threads: Is called with a new number, such as `torch.set_num_threads`.
        read: Returns the usage, or None where it is unknown.
        cores: Number of cores that `read` regards.
    """

    _PERIOD = 1.0  # seconds
    _WAITED = 0.15  # threads that waited on average
    _NOISE = 0.3  # cores that others may use before one is given up for them
    _CALM = 3  # periods after which cores count as free again

    def __init__(
        self,
        most: int,
        set_threads: Callable[[int], None],
        read: Callable[[], Usage | None] | None = None,
        cores: int | None = None,
    ) -> None:
        usable = usable_cores()
        self.most = most
        self.count = most
        self._set_threads = set_threads
        self._read = read or functools.partial(read_usage, usable)
        self._cores = cores or len(usable)
        self._last: Usage | None = None
        self._next = 0.0
        self._calm = 0

    def update(self) -> None:
        """Call it between two pieces of work. It does nothing within a second of the last look."""
        if self.most > 1 and time.monotonic() >= self._next:
            self._next = time.monotonic() + self._PERIOD
            self._look()

    def _look(self) -> None:
        last, now = self._last, self._read()
        self._last = now
        if now is None or last is None or now.wall <= last.wall:
            return
        wall = now.wall - last.wall
        others = max(0.0, (now.busy - last.busy) - (now.own - last.own)) / wall
        free = self._cores - max(0, math.ceil(others - self._NOISE))
        wanted = max(1, min(self.most, free))
        waited = (now.waited - last.waited) / wall
        self._calm = self._calm + 1 if wanted > self.count else 0
        if (wanted < self.count and waited > self._WAITED) or self._calm >= self._CALM:
            logger.info(
                "Other processes use %.1f of %d cores: %d thread(s) from now on instead of %d. "
                "train.num_threads keeps the number fixed.",
                *(others, self._cores, wanted, self.count),
            )
            self._calm = 0
            self.count = wanted
            self._set_threads(wanted)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
