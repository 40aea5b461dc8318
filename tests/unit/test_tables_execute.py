"""Running jobs: order, side by side, failures, interruptions. The runs are stand-ins."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from filelock import FileLock

from mask_rcnn_tools.tables import execute
from mask_rcnn_tools.tables.execute import Executor, Slot, visible_gpus
from mask_rcnn_tools.tables.process import Process, is_held, tail
from mask_rcnn_tools.tables.progress import Step, last_step

from .tables_helpers import command, events, job


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(execute, "_POLL_SECONDS", 0.05)


def executor(folder, jobs, slots=None, **options):
    seconds = dict.fromkeys(jobs, 1.0)
    return Executor(
        jobs, command(folder), slots or [Slot()], folder / "logs", seconds, "test", **options
    )


def states(outcome):
    return {j.config: state for j, state in outcome.states.items()}


def test_inputs_come_first_and_every_job_runs_once(tmp_path, capsys):
    stage = job(tmp_path, "stage")
    rows = [job(tmp_path, f"row{i}", inputs=(("proposals", stage),)) for i in range(2)]
    outcome = executor(tmp_path, [stage, *rows]).run()
    assert states(outcome) == {"stage": "done", "row0": "done", "row1": "done"}
    assert [(e[0], e[1]) for e in events(tmp_path)] == [
        *(("begin", "stage"), ("end", "stage"), ("begin", "row0"), ("end", "row0")),
        *(("begin", "row1"), ("end", "row1")),
    ]
    assert "done     row1 seed 0" in capsys.readouterr().out


def test_a_failing_row_leaves_the_others_alone(tmp_path, capsys):
    broken = job(tmp_path, "fail")
    above = job(tmp_path, "above", inputs=(("init_from", broken),))
    jobs = [broken, above, job(tmp_path, "row")]
    outcome = executor(tmp_path, jobs).run()
    assert states(outcome) == {"fail": "failed", "above": "blocked", "row": "done"}
    assert outcome.reasons[above] == "needs fail seed 0, which failed"
    out = capsys.readouterr().out
    assert "FAILED   fail seed 0: exit status 2; its output is in" in out
    assert "    error: the data are missing\n" in out  # the end of its log
    assert "x" * 200 not in out


def test_a_run_without_a_record_has_failed(tmp_path, capsys):
    outcome = executor(tmp_path, [job(tmp_path, "silent")]).run()
    assert states(outcome) == {"silent": "failed"}
    assert "ended without a record that counts" in capsys.readouterr().out


def test_side_by_side_each_with_its_gpu(tmp_path):
    jobs = [job(tmp_path, "pair", seed) for seed in range(3)]
    slots = [Slot(gpus=("2",)), Slot(gpus=("5",), threads=3)]
    executor(tmp_path, jobs, slots).run()
    seen = events(tmp_path)
    most = running = 0
    for event in seen:
        running += {"begin": 1, "end": -1}[event[0]]
        most = max(most, running)
    assert most == 2
    assert {(e[3], e[4]) for e in seen} >= {("5", "3")}
    assert {e[3] for e in seen} == {"2", "5"}


def test_gpus_are_those_that_this_process_may_use(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert visible_gpus(2) == ["4", "7"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert visible_gpus(2) == ["0", "1"]


def test_threads_are_handed_on_unless_given(tmp_path):
    one = job(tmp_path, "row")
    runner = executor(tmp_path, [one])
    assert runner._extra(one, Slot(threads=2)) == ["train.num_threads=2"]
    assert runner._extra(one, Slot()) == []
    object.__setattr__(one, "overrides", ("train.num_threads=1",))
    assert runner._extra(one, Slot(threads=2)) == []


def test_sigterm_stops_the_runs_and_says_so(tmp_path):
    """The signal reaches this process while a run is at work; the run is asked, not killed."""
    jobs = [job(tmp_path, "slow"), job(tmp_path, "row")]
    runner = executor(tmp_path, jobs)
    shown = runner._show

    def show_and_interrupt():
        shown()
        if events(tmp_path) and (jobs[0].folder / "metrics.json").exists():
            os.kill(os.getpid(), signal.SIGTERM)

    runner._show = show_and_interrupt
    outcome = runner.run()
    assert outcome.stopped_by == signal.SIGTERM
    assert states(outcome) == {"slow": "waiting", "row": "waiting"}
    assert [e[0] for e in events(tmp_path)] == ["begin", "asked"]


KILLED = """
import sys; sys.path[:0] = {paths!r}
from pathlib import Path
from mask_rcnn_tools.tables.process import Process
Process({command!r}, Path({log!r}))
print("started", flush=True)
import time; time.sleep(60)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prctl is Linux's")
def test_killed_outright_it_leaves_no_run_behind(tmp_path):
    slow = job(tmp_path, "slow")
    words = [*command(tmp_path), *slow.arguments()]
    paths = [p for p in sys.path if p]
    text = KILLED.format(paths=paths, command=words, log=str(tmp_path / "log"))
    program = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True)
    assert program.stdout is not None
    assert program.stdout.readline() == "started\n"
    wait_for(lambda: (slow.folder / "metrics.json").exists())
    program.kill()
    program.wait()
    wait_for(lambda: [e[0] for e in events(tmp_path)] == ["begin", "asked"])


def wait_for(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def test_a_run_of_another_process_is_waited_for_and_taken_over(tmp_path, capsys):
    """Whoever holds the folder makes its record; this process then has nothing to do."""
    one = job(tmp_path, "row")
    one.folder.mkdir(parents=True)
    lock = FileLock(one.folder / ".lock")
    lock.acquire()
    assert is_held(one.folder)
    runner = executor(tmp_path, [one])
    shown = runner._show

    def show_and_finish():
        shown()
        if one in runner.elsewhere and lock.is_locked:
            known = json.loads((tmp_path / "folders.json").read_text())
            (one.folder / "record.json").write_text(json.dumps(known[one.name]["record"]))
            lock.release()

    runner._show = show_and_finish
    assert states(runner.run()) == {"row": "done"}
    assert events(tmp_path) == []
    assert "another process is at work in its folder" in capsys.readouterr().out


def test_a_process_that_does_not_stop_can_be_killed(tmp_path):
    process = Process(
        [
            *(sys.executable, "-c"),
            "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
            "print('up', flush=True); time.sleep(60)",
        ],
        tmp_path / "log",
    )
    wait_for(lambda: tail(tmp_path / "log") == "up")
    process.ask_to_stop()
    assert not process.wait(0.3)
    process.kill()
    assert process.wait(10)
    assert process.exit_code == -signal.SIGKILL


def test_the_last_step_of_a_file_that_is_being_written(tmp_path):
    assert last_step(tmp_path) is None
    file = tmp_path / "metrics.json"
    file.write_text('{"iteration": 19, "time": 0.5}\n{"iteration": 39, "time": 0.25}\n{"itera')
    assert last_step(tmp_path) == Step(39, 0.25)
    file.write_text(json.dumps({"filler": "x" * 100000}) + '\n{"iteration": 5}\n')
    assert last_step(tmp_path) == Step(5, None)
    file.write_text("{")
    assert last_step(tmp_path) is None


def test_progress_without_a_terminal_is_lines(tmp_path, capsys):
    jobs = [job(tmp_path, "row"), job(tmp_path, "other")]
    executor(tmp_path, jobs, period=0.0).run()
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("test 0 %: 0 of 2 runs done, ") for line in lines)
    assert any("1 of 2 runs done" in line for line in lines)
    assert "\r" not in "".join(lines)


def test_what_is_left_comes_from_what_was_measured(tmp_path):
    """3 of 8 iterations in 6 s leave 10 s; were 1 done before it was continued, 15 s."""
    slow = job(tmp_path, "slow")
    runner = executor(tmp_path, [slow])
    work = execute._Running(None, Slot(), time.monotonic() - 6.0, first=0)
    assert slow.iterations == 8
    assert runner._seconds_left(slow, work, 3) == pytest.approx(10.0, abs=0.2)
    continued = execute._Running(None, Slot(), time.monotonic() - 6.0, first=1)
    assert runner._seconds_left(slow, continued, 3) == pytest.approx(15.0, abs=0.2)
