"""Number of threads: the user's choice, the container's limit, and other busy processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mask_rcnn_repro.utils import threads
from mask_rcnn_repro.utils.threads import (
    ThreadBalance,
    Usage,
    choose_threads,
    cpu_quota,
    read_usage,
    usable_cores,
)
from mask_rcnn_tools.startup import set_policy


def test_policy_leaves_what_the_user_has_set() -> None:
    environment: dict[str, str] = {}
    set_policy(environment)
    assert environment["GOMP_SPINCOUNT"] == "10000" and environment["NUMBA_NUM_THREADS"] == "1"
    assert "OMP_NUM_THREADS" not in environment
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        environment = {name: "given", "OPENBLAS_NUM_THREADS": "3"}
        set_policy(environment)
        assert environment[name] == "given" and environment["OPENBLAS_NUM_THREADS"] == "3"
        assert ("GOMP_SPINCOUNT" in environment) == (name == "GOMP_SPINCOUNT")


def test_policy_is_set_before_torch_is_imported() -> None:
    """The commands' first import sets it; OpenMP reads it when it is loaded."""
    code = (
        "import sys, os; import mask_rcnn_tools.command;"
        "print('torch' in sys.modules, 'numpy' in sys.modules, os.environ['GOMP_SPINCOUNT'])"
    )
    environment = {k: v for k, v in os.environ.items() if k != "GOMP_SPINCOUNT"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.split() == ["False", "False", "10000"]


@pytest.mark.parametrize(
    ("configured", "environment", "quota", "expected"),
    [
        (3, {"OMP_NUM_THREADS": "5"}, 1.5, (3, True)),
        (None, {"OMP_NUM_THREADS": "5"}, 1.5, (5, True)),
        (None, {"OMP_NUM_THREADS": "4,2"}, None, (4, True)),
        (None, {"OMP_NUM_THREADS": "many"}, None, (8, False)),
        (None, {}, None, (8, False)),
        (None, {}, 2.5, (2, False)),
        (None, {}, 0.5, (1, False)),
        (None, {}, 64.0, (8, False)),
    ],
)
def test_number_of_threads(
    monkeypatch: pytest.MonkeyPatch,
    configured: int | None,
    environment: dict[str, str],
    quota: float | None,
    expected: tuple[int, bool],
) -> None:
    monkeypatch.setattr(threads, "usable_cores", lambda: set(range(8)))
    monkeypatch.setattr(threads, "cpu_quota", lambda: quota)
    choice = choose_threads(configured, environment)
    assert (choice.count, choice.fixed) == expected


@pytest.mark.parametrize(
    ("group", "files", "expected"),
    [
        ("0::/box\n", {"sys/fs/cgroup/box/cpu.max": "150000 100000"}, 1.5),
        ("0::/box/run\n", {"sys/fs/cgroup/box/run/cpu.max": "max 100000"}, None),
        ("0::/box\n", {"sys/fs/cgroup/box/cpu.max": "nonsense"}, None),
        ("0::/box\n", {"sys/fs/cgroup/box/cpu.max": "1 0"}, None),
        (
            "0::/box/run\n",
            {
                "sys/fs/cgroup/box/run/cpu.max": "400000 100000",
                "sys/fs/cgroup/box/cpu.max": "200000 100000",
            },
            2.0,
        ),
        (
            "2:cpuacct,cpu:/box\n1:memory:/box\n",
            {
                "sys/fs/cgroup/cpu/box/cpu.cfs_quota_us": "300000",
                "sys/fs/cgroup/cpu/box/cpu.cfs_period_us": "100000",
            },
            3.0,
        ),
        (
            "2:cpu:/\n0::/\n",
            {
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            None,
        ),
    ],
)
def test_limit_of_the_control_group(
    tmp_path: Path, group: str, files: dict[str, str], expected: float | None
) -> None:
    for name, text in {"proc/self/cgroup": group, **files}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cpu_quota(tmp_path) == expected
    assert cpu_quota(tmp_path / "none") is None


class Machine:
    """Eight cores; this process has eight threads, others use some cores."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.usage = Usage(0.0, 0.0, 0.0, 0.0)
        self.set: list[int] = []
        monkeypatch.setattr(ThreadBalance, "_PERIOD", 0.0)
        self.balance = ThreadBalance(8, self.set.append, lambda: self.usage, cores=8)
        self.balance.update()

    def second(self, others: float, waited: float, own: float | None = None) -> list[int]:
        """Lets a second pass; returns the numbers that were set."""
        old = self.usage
        own = 8 - others if own is None else own
        self.usage = Usage(
            old.wall + 1, old.waited + waited, old.own + own, old.busy + own + others
        )
        self.set.clear()
        self.balance.update()
        return list(self.set)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def test_idle_machine_changes_nothing(machine: Machine) -> None:
    assert [machine.second(others=0.1, waited=0.05) for _ in range(20)] == [[]] * 20


def test_cores_of_others_are_given_up_and_taken_back(machine: Machine) -> None:
    assert machine.second(others=2.0, waited=1.0) == [6]
    assert machine.second(others=2.0, waited=0.0, own=6) == []
    assert machine.second(others=9.0, waited=3.0, own=1) == [1], "one thread is always left"
    seconds = [machine.second(others=1.0, waited=0.0, own=1) for _ in range(3)]
    assert seconds == [[], [], [7]], "after some calm seconds only"
    assert machine.balance.count == 7


def test_busy_cores_that_cost_no_waiting_are_left_alone(machine: Machine) -> None:
    """A reading of others' work is no reason by itself: it may be this process' own loader."""
    assert machine.second(others=2.0, waited=0.0) == []


def test_unknown_usage_changes_nothing() -> None:
    balance = ThreadBalance(2, pytest.fail, lambda: None)
    for _ in range(3):
        balance.update()


@pytest.fixture
def busy_processes() -> Iterator[None]:
    code = "while True: pass"
    started = [subprocess.Popen([sys.executable, "-c", code]) for _ in usable_cores()]
    yield
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.skipif(read_usage(usable_cores()) is None, reason="needs Linux's /proc")
def test_real_neighbours_are_seen(busy_processes: None) -> None:
    """With a busy process a core, this one waits, and others use about what it does not."""
    first = read_usage(usable_cores())
    end = time.monotonic() + 3
    while time.monotonic() < end:
        pass
    second = read_usage(usable_cores())
    assert first is not None and second is not None
    wall = second.wall - first.wall
    own, busy = second.own - first.own, second.busy - first.busy
    assert second.waited - first.waited > 0.1 * wall
    assert 0.5 * wall < busy - own <= len(usable_cores()) * wall + 0.5
    assert own < wall
