"""Settings of all tests: threads, and where generated data is kept."""

from __future__ import annotations

import os

import pytest

# Before torch is imported: test processes run side by side, a thread for every core each would
# only wait. Tests that compare bit for bit need equal thread counts, too.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure(config: pytest.Config) -> None:
    """Keeps the embedded data in pytest's cache, for all workers and later runs."""
    cache = getattr(config, "cache", None)
    if "MASK_RCNN_REPRO_CACHE" not in os.environ and cache is not None:
        os.environ["MASK_RCNN_REPRO_CACHE"] = str(cache.mkdir("embedded"))
