"""Loaders whose worker processes are killed."""

from __future__ import annotations

import gc
import itertools
import logging
import multiprocessing
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from mask_rcnn_repro.data.loading import worker_deaths
from mask_rcnn_repro.data.loading.loader import build_test_loader, build_train_loader
from mask_rcnn_repro.errors import DataError, WorkerError

RECORDS = [{"x": i, "width": 10 + i % 2, "height": 10} for i in range(30)]


def mapper(record):
    return {**record, "random": np.random.rand()}


def dies_at(number, folder, times=10**6):
    """A mapper that kills its process at an image, so many times."""

    def mapped(record):
        died = len(list(folder.iterdir()))
        if record["x"] == number and died < times:
            (folder / str(died)).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return mapper(record)

    return mapped


def taken(loader, count=None):
    return [[(i["x"], i["random"]) for i in batch] for batch in itertools.islice(loader, count)]


def test_killed_from_outside_between_batches(caplog):
    def loader(workers):
        return build_train_loader(RECORDS, mapper, 2, num_workers=workers, seed=3)

    expected = taken(loader(0), 25)
    batches, seen = iter(loader(2)), []
    with caplog.at_level(logging.WARNING):
        for number in range(25):
            seen.append([(i["x"], i["random"]) for i in next(batches)])
            if number == 6:
                for worker in multiprocessing.active_children():
                    os.kill(worker.pid, signal.SIGKILL)
                # PyTorch would raise here, in the middle of whatever is done with the batch
                time.sleep(0.05)
                subprocess.run(["true"], check=True)
    del batches
    assert not multiprocessing.active_children()
    assert seen == expected
    assert "SIGKILL" in caplog.text and "New ones go on from batch" in caplog.text


class Dying:
    """A worker whose end the system reports late: after its connection has broken."""

    pid, exitcode = 1, -signal.SIGKILL

    def __init__(self):
        self.looks = 0

    def is_alive(self):
        self.looks += 1
        return self.looks < 4

    def kill(self):
        pass


def test_a_connection_breaks_before_the_death_is_reported(monkeypatch, caplog):
    def breaking():
        yield "first"
        raise ConnectionResetError

    started = iter([(breaking(), [Dying()]), (iter(["second"]), [])])
    monkeypatch.setattr(worker_deaths, "_started", lambda from_batch, number: next(started))
    with caplog.at_level(logging.WARNING):
        assert list(worker_deaths.surviving_deaths(iter)) == ["first", "second"]
    assert "1 (SIGKILL)" in caplog.text


@pytest.mark.parametrize("batch_size", [1, 4])
def test_dying_at_an_image_twice(tmp_path, batch_size):
    expected = taken(build_test_loader(RECORDS, mapper, 0, batch_size))
    deaths = dies_at(17, tmp_path, times=2)
    assert taken(build_test_loader(RECORDS, deaths, 1, batch_size)) == expected
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("go_on", [True, False])
def test_a_lock_that_a_killed_worker_has_taken_along(go_on):
    """PyTorch's shutdown waits for it for ever."""
    expected = taken(build_test_loader(RECORDS, mapper))
    batches = iter(build_test_loader(RECORDS, mapper, num_workers=1))
    seen = [[(i["x"], i["random"]) for i in next(batches)]]
    kind = "_MultiProcessingDataLoaderIter"
    found = [o for o in gc.get_objects() if type(o).__name__ == kind]
    iterator = next(o for o in found if any(w.is_alive() for w in o._workers))
    del found
    child = os.fork()
    if child == 0:
        iterator._workers_done_event._cond.acquire()
        os._exit(0)
    os.waitpid(child, 0)
    iterator._workers[0].kill()
    iterator._workers[0].join()
    del iterator

    def too_long(*args):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(30)
    try:
        if go_on:
            seen += taken(batches)
            assert seen == expected
        del batches  # as after the last iteration; an error in there would not get out
        assert signal.alarm(30), "it took too long"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_dying_at_an_image_always(tmp_path):
    loader = build_test_loader(RECORDS, dies_at(5, tmp_path), num_workers=1)
    with pytest.raises(WorkerError, match=r"3 times in a row(.|\n)*SIGKILL"):
        taken(loader)
    assert len(list(tmp_path.iterdir())) == worker_deaths.MAX_DEATHS


def test_rare_deaths_are_forgiven(monkeypatch, tmp_path):
    monkeypatch.setattr(worker_deaths, "FORGIVEN_AFTER", 5)

    def mapped(record):
        here = Path(tmp_path, str(record["x"]))
        if record["x"] % 6 == 0 and not here.exists():
            here.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return mapper(record)

    assert taken(build_test_loader(RECORDS, mapped, num_workers=1)) == taken(
        build_test_loader(RECORDS, mapper)
    )
    assert len(list(tmp_path.iterdir())) == 5 > worker_deaths.MAX_DEATHS


def test_errors_of_living_workers_pass():
    def broken(record):
        if record["x"] == 3:
            raise DataError("three")
        if record["x"] == 4:
            raise OSError("four")
        return record

    with pytest.raises(DataError, match=r"^three$"):
        list(build_test_loader(RECORDS, broken, num_workers=1))
    with pytest.raises(OSError, match="four"):
        list(build_test_loader(RECORDS[4:], broken, num_workers=1))


def test_workers_die_with_a_killed_parent(tmp_path):
    """Also those that wait for their data to be taken."""
    sender, receiver = os.pipe()
    parent = os.fork()
    if parent == 0:
        try:
            large = build_test_loader(RECORDS, lambda r: {"x": bytes(2**20)}, num_workers=1)
            before = set(multiprocessing.active_children())  # those of the tests' own process
            batches = iter(large)
            next(batches)
            (worker,) = (c.pid for c in set(multiprocessing.active_children()) - before)
            time.sleep(0.3)  # the next one is on its way
            os.write(receiver, str(worker).encode())
            time.sleep(120)
        finally:
            os._exit(1)
    worker = int(os.read(sender, 20))
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    deadline = time.monotonic() + 60
    while is_alive(worker):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
