"""Settings of all tests: threads, and where generated data is kept."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Generator
from typing import Any

import pytest

# Before torch is imported: test processes run side by side, a thread for every core each would
# only wait. Tests that compare bit for bit need equal thread counts, too.
os.environ.setdefault("OMP_NUM_THREADS", "1")


EVERY_CONFIG = ("/test_documentation.py", "/test_tables_outcome.py", "/test_tables_plan.py")
"""Files that load every config, beside those in `tests/configs`."""


def pytest_configure(config: pytest.Config) -> None:
    """Keeps the embedded data in pytest's cache, for all workers and later runs."""
    cache = getattr(config, "cache", None)
    if "MASK_RCNN_REPRO_CACHE" not in os.environ and cache is not None:
        os.environ["MASK_RCNN_REPRO_CACHE"] = str(cache.mkdir("embedded"))


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """Collects without looking for garbage, and looks for it less often afterwards.

    Modules and tests, millions of objects, live to the end. Searching them took a quarter of
    collecting and a tenth of the tests.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(20_000, 20, 20)
        gc.enable()


HANDLERS = pytest.StashKey[dict[signal.Signals, Any]]()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Stores the handlers of signals, see `pytest_runtest_teardown`."""
    kinds = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    item.stash[HANDLERS] = {kind: signal.getsignal(kind) for kind in kinds}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """Fails a test that leaves a handler of a signal behind, which later tests would inherit."""
    result = yield
    for kind, handler in item.stash.get(HANDLERS, {}).items():  # none if it was skipped
        if (left := signal.getsignal(kind)) != handler:
            signal.signal(kind, handler)
            pytest.fail(f"The test left {left} as the handler of {kind.name}.")
    return result


@pytest.hookimpl(optionalhook=True)  # xdist's
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Gives each file to one worker, and all files that load every config to the same one.

    Loading every config takes half a minute. Runs of all configs, the longest file, are divided by
    folder of configs. The groups of xdist 3.8 have no effect in pytest 9.2.
    """
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            if file.endswith("/test_runs.py"):
                return nodeid.partition("/test_runs.py")[2].partition("/")[0]
            loads_all = file.startswith("tests/configs/") or file.endswith(EVERY_CONFIG)
            return "every config" if loads_all else file

    return Scheduling(config, log)
