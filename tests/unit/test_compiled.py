"""Compiled functions and the threads that run them, also where Numba is missing or fails."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mask_rcnn_repro.utils import compiled
from mask_rcnn_repro.utils.compiled import run_in_threads

SOURCES = str(Path(__file__).resolve().parents[2] / "projects")


def run_python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, "PYTHONPATH": SOURCES, **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@given(st.integers(0, 200), st.integers(1, 5), st.integers(0, 40))
def test_chunks_cover_every_item_once(items, threads, min_items):
    seen = []
    run_in_threads(lambda start, stop: seen.append((start, stop)), items, threads, min_items)
    assert sorted(i for start, stop in seen for i in range(start, stop)) == list(range(items))
    assert all(start < stop for start, stop in seen)
    if items < 2 * min_items:
        assert len(seen) <= 1  # not worth a second thread


def test_items_are_spread_over_threads():
    both = threading.Barrier(2, timeout=30)  # passes if two threads are inside at once
    met = []

    def work(start, stop):
        if len(met) < 2:
            met.append(threading.current_thread())
            both.wait()

    run_in_threads(work, 2, threads=2)
    assert len(set(met)) == 2 and threading.current_thread() in met


def test_threads_default_to_those_of_torch():
    before = torch.get_num_threads()
    calls = []
    try:
        torch.set_num_threads(1)
        run_in_threads(lambda *bounds: calls.append(bounds), 50)
    finally:
        torch.set_num_threads(before)
    assert calls == [(0, 50)]


@pytest.mark.parametrize("threads", [1, 3])
def test_exceptions_come_through_and_end_the_work(threads):
    done = []

    def work(start, stop):
        done.append(start)
        raise ZeroDivisionError(f"at {start}")

    with pytest.raises(ZeroDivisionError, match="at "):
        run_in_threads(work, 100, threads)
    assert len(done) <= threads
    run_in_threads(lambda start, stop: done.append("again"), 100, threads)
    assert "again" in done


def test_nested_calls_run_in_their_thread():
    def outer(start, stop):
        thread = threading.current_thread()
        run_in_threads(lambda *_: inner.append(threading.current_thread() is thread), 40, 4)

    inner: list[bool] = []
    run_in_threads(outer, 8, threads=2)
    assert len(inner) == 8 and all(inner)


def test_threads_after_a_fork():
    code = """
import os, signal
from mask_rcnn_repro.utils.compiled import run_in_threads
seen = []
run_in_threads(lambda start, stop: seen.append(start), 64, threads=3)
child = os.fork()
if child == 0:
    signal.alarm(20)  # ends a child that hangs
    seen.clear()
    run_in_threads(lambda start, stop: seen.extend(range(start, stop)), 64, threads=3)
    os._exit(0 if sorted(seen) == list(range(64)) else 1)
print(os.waitpid(child, 0)[1])
"""
    assert run_python(code) == "0"


ENCODE = """
import sys, torch
from mask_rcnn_repro.utils import compiled
assert "numba" not in sys.modules
from mask_rcnn_repro.evaluation.masks.rle import encode_masks
masks = torch.linspace(0, 1, 98).reshape(2, 1, 7, 7)
boxes = torch.tensor([[2, 3, 20, 30], [-5, 1, 9, 70.0]])
rles = encode_masks(masks, boxes, 40, 50)
print(compiled.HAVE_NUMBA, "numba" in sys.modules, [rle["counts"] for rle in rles])
"""


@pytest.mark.slow
def test_switched_off_it_gives_the_same():
    off = run_python(ENCODE, MASK_RCNN_REPRO_NUMBA="0")
    assert off.startswith("False False [")
    if compiled.HAVE_NUMBA:
        assert run_python(ENCODE) == off.replace("False False", "True True")


def test_missing_numba_is_found_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    assert not compiled._importable()


def test_numba_that_cannot_be_imported_is_reported(tmp_path):
    (tmp_path / "numba.py").write_text("raise ImportError('NumPy is too new')")
    code = "from mask_rcnn_repro.utils import compiled; print(compiled.HAVE_NUMBA)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{SOURCES}"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.stdout.strip() == "False" and "NumPy is too new" in done.stderr


@pytest.mark.skipif(not compiled.HAVE_NUMBA, reason="Numba is not installed")
@pytest.mark.parametrize("broken", ["no folder", "no space", "broken file"])
def test_cache_that_cannot_be_used(tmp_path, broken):
    module = tmp_path / "some_loops.py"
    module.write_text(
        "from mask_rcnn_repro.utils.compiled import compiled\n"
        "@compiled()\n"
        "def double(x):\n"
        "    return 2 * x\n"
    )
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
    cache = tmp_path / "cache"
    if broken == "no folder":
        (tmp_path / "file").write_text("")
        cache = tmp_path / "file" / "cache"  # cannot be made, also by root
    code += "import some_loops\n"
    if broken == "no space":
        code += (
            "import numba.core.caching as caching\n"
            "def full(*args): raise OSError(28, 'No space left on device')\n"
            "caching.IndexDataCacheFile.save = full\n"
        )
    code += "print(some_loops.double(21), some_loops.double.is_compiled)"
    assert run_python(code, NUMBA_CACHE_DIR=str(cache)) == "42 True"
    if broken == "broken file":
        files = [f for f in cache.rglob("*") if f.is_file()]
        assert {f.suffix for f in files} == {".nbi", ".nbc"}
        for file in files:
            file.write_bytes(b"")
        assert run_python(code, NUMBA_CACHE_DIR=str(cache)) == "42 True"
        for file in cache.rglob("*.nbi"):
            file.write_bytes(b"cnumba\nof_another_version\n.")  # an attribute that is not there
        assert run_python(code, NUMBA_CACHE_DIR=str(cache)) == "42 True"


def test_unknown_attribute():
    with pytest.raises(AttributeError, match="HAVE_CUDA"):
        _ = compiled.HAVE_CUDA


def test_nothing_is_kept_alive_by_threads_that_came_too_late():
    class Held:
        pass

    def call(held: Held, threads_busy: threading.Event) -> None:
        compiled.run_in_threads(lambda start, stop: held and threads_busy, 2, threads=2)

    compiled.run_in_threads(lambda start, stop: None, 2, threads=2)  # the pool exists
    go_on = threading.Event()
    blocked = compiled._submit(go_on.wait, compiled._executor_size)
    held = Held()
    alive = weakref.ref(held)
    call(held, go_on)  # the pool's threads are busy: the caller does it all
    del held
    kept = alive() is not None
    go_on.set()
    for future in blocked:
        future.result(timeout=10)
    assert not kept
