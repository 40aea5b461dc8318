"""Imports without garbage collection, and an exit without it."""

import gc
import subprocess
import sys

import pytest

from mask_rcnn_tools.startup import fast_imports


@pytest.fixture(autouse=True)
def _as_before():
    yield
    gc.unfreeze()
    gc.enable()


def test_collects_nothing_inside_and_as_before_after():
    with fast_imports():
        assert not gc.isenabled()
    assert gc.isenabled() and gc.get_freeze_count() > 0
    gc.disable()
    with fast_imports():
        pass
    assert not gc.isenabled()


def test_an_error_leaves_collection_on():
    with pytest.raises(ImportError), fast_imports():
        raise ImportError
    assert gc.isenabled()


def test_later_garbage_is_collected():
    with fast_imports():
        pass

    class Garbage:
        alive = 0

        def __init__(self):
            Garbage.alive += 1
            self.cycle = self

        def __del__(self):
            Garbage.alive -= 1

    Garbage()
    gc.collect()
    assert Garbage.alive == 0


def test_what_is_left_at_the_exit_is_not_gone_through():
    script = """
from mask_rcnn_tools.startup import fast_imports
with fast_imports():
    import atexit, json
class Cycle:
    def __init__(self): self.me = self
    def __del__(self): print("collected")
atexit.register(print, "exit functions run")
kept = [Cycle()]
del kept
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split("\n") == ["exit functions run", ""], done.stderr
