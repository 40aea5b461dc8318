"""How many processes a loader starts on this machine."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from detectron2.utils import comm

_logger = logging.getLogger(__name__)
_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container, in microseconds a period


def usable_cpus() -> int:
    """CPUs that this process may use: of its affinity mask and its container's quota the lesser."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _QUOTA.read_text().split()
        if quota != "max":
            cpus = min(cpus, int(quota) // int(period))
    except (OSError, ValueError, ZeroDivisionError):
        pass  # not Linux, or no limit that could be read
    return max(1, cpus)


def _local_processes() -> int:
    """Processes of this job on this machine; where nobody says, all of the job's."""
    try:
        return int(comm.get_local_size())
    except AssertionError:  # a process group that Detectron2's `launch` did not make
        return int(os.environ.get("LOCAL_WORLD_SIZE", comm.get_world_size()))


def loader_workers(asked: int) -> int:
    """Limits a loader's worker processes to this process's share of the usable CPUs.

    More would only take memory and each other's time. What is loaded does not depend on it.

    Args:
        asked: as configured; 0 loads in the calling process.

    Returns:
        ``asked``, or less, which is logged; at least 1 where one is asked for.
    """
    share = max(1, usable_cpus() // _local_processes())
    if asked <= share:
        return asked
    _logger.info(
        "Loading with %d worker processes instead of num_workers=%d: this process can use %d CPUs.",
        share,
        asked,
        share,
    )
    return share
