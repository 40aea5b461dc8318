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


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Groups that `--dist loadgroup` gives to one worker: a file, which shares its fixtures.

    Files that need every config are one group: loading all of them takes half a minute.
    """
    for item in items:
        file = item.nodeid.partition("::")[0]
        rules = file.startswith("tests/configs/") and not file.endswith("/test_runs.py")
        group = "every_config" if rules or file.endswith("/test_documentation.py") else file
        item.add_marker(pytest.mark.xdist_group(group))
