"""How many processes a loader starts on this machine."""

from __future__ import annotations

import logging
import os

from detectron2.utils import comm

from mask_rcnn_repro.utils.threads import usable_cpus

_logger = logging.getLogger(__name__)


def loader_workers(asked: int) -> int:
    """Limits a loader's worker processes to this process's share of the usable CPUs.

    More processes take memory and do not load faster. What is loaded does not depend on the number.

    Args:
        asked: As configured. 0 loads in the calling process.

    Returns:
        ``asked``, or a lower number (at least 1), which is logged.
    """
    try:
        processes = int(comm.get_local_size())
    except AssertionError:  # a process group that Detectron2's `launch` did not make
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", comm.get_world_size()))
    share = max(1, usable_cpus() // processes)
    if asked <= share:
        return asked
    _logger.info(
        "Loading with %d worker processes instead of num_workers=%d: this process can use %d CPUs.",
        *(share, asked, share),
    )
    return share
