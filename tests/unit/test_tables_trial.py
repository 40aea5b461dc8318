"""How many runs side by side are fastest: what is tried, what is kept, and how it is watched."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from mask_rcnn_tools.tables import main, trial
from mask_rcnn_tools.tables.cli import parse_args
from mask_rcnn_tools.tables.cost import Estimate
from mask_rcnn_tools.tables.execute import Slot
from mask_rcnn_tools.tables.process import Process
from mask_rcnn_tools.tables.trial import (
    FILE,
    best_count,
    mean_of_later_half,
    seconds_per_iteration,
)

RATES = {4: 2.0, 2: 2.5, 1: 1.5}


class Machine:
    """Stands for a trial; notes what was tried."""

    def __init__(self, rates: dict[int, float]) -> None:
        self.rates = rates
        self.tried: list[tuple[int, int]] = []

    def measure(self, count: int, threads: int) -> float:
        self.tried.append((count, threads))
        if count not in self.rates:
            raise RuntimeError("no such file")
        return self.rates[count]


def test_the_count_that_does_most_is_taken_and_measured_once(tmp_path: Path) -> None:
    machine = Machine(RATES)
    best, why = best_count(4, 8, tmp_path / "a" / FILE, machine.measure, "CPU")
    assert best == 2 and machine.tried == [(4, 2), (2, 4), (1, 8)]
    assert "Side by side: 2, with 4 thread(s) each" in why and "4: 2.00, 2: 2.50, 1: 1.50" in why
    assert best_count(4, 8, tmp_path / "a" / FILE, machine.measure, "CPU")[0] == 2
    assert best_count(2, 8, tmp_path / "a" / FILE, machine.measure, "CPU")[0] == 2
    assert len(machine.tried) == 3, "from the file"
    best_count(2, 4, tmp_path / "a" / FILE, machine.measure, "CPU")  # other cores
    best_count(2, 4, tmp_path / "a" / FILE, machine.measure, "another CPU")
    assert machine.tried[3:] == [(2, 2), (1, 4)] * 2


@pytest.mark.parametrize("text", ["", "[]", '{"about": "CPU", "cores": 2}', "nonsense"])
def test_a_file_of_another_kind_is_measured_anew(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    machine = Machine(RATES)
    assert best_count(2, 2, tmp_path / FILE, machine.measure, "CPU")[0] == 2
    assert json.loads((tmp_path / FILE).read_text())["iterations_per_second"]["1"] == 1.5


def test_what_cannot_be_measured_leaves_the_number_asked_for(tmp_path: Path) -> None:
    best, why = best_count(2, 2, tmp_path / FILE, Machine({2: 1.0}).measure, "CPU")
    assert best == 2 and "no such file" in why
    assert not (tmp_path / FILE).exists()


def test_mean_of_the_later_half() -> None:
    assert mean_of_later_half([0.0, 9.0, 10.0, 12.0, 13.0]) == pytest.approx(1.5)
    assert mean_of_later_half([0.0, 9.0, 10.0, 12.0]) == pytest.approx(1.5)
    assert mean_of_later_half([1.0, 4.0]) == 3.0


def started(folder: Path, lines: int) -> Process:
    """Stands for a training: writes lines, waits for ever if `lines` suffice, else fails."""
    folder.mkdir()
    code = (
        f"import time; file = open({str(folder / 'metrics.json')!r}, 'a', buffering=1)\n"
        f"for _ in range({lines}): file.write('{{}}\\n'); time.sleep(0.03)\n"
        f"time.sleep(60 if {lines} > 3 else 0); raise SystemExit('diverged')"
    )
    return Process([sys.executable, "-c", code], folder.with_suffix(".txt"))


def test_trainings_are_watched_and_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(trial, "mean_of_later_half", lambda ends: seen.append(ends) or 3.0)
    folders = [tmp_path / "0", tmp_path / "1"]
    runs = [started(folder, 8) for folder in folders]
    assert seconds_per_iteration(runs, folders, 6, 60.0) == 3.0
    assert [len(ends) for ends in seen] == [6, 6] and all(e == sorted(e) for e in seen)
    assert all(run.exit_code is not None and run.exit_code < 0 for run in runs)


def test_a_training_that_ends_too_early_is_reported_with_its_output(tmp_path: Path) -> None:
    runs = [started(tmp_path / "0", 1)]
    with pytest.raises(RuntimeError, match=r"(?s)1 iterations were done\..*diverged"):
        seconds_per_iteration(runs, [tmp_path / "0"], 6, 60.0)


class Row:
    """Stands for a job."""

    config_id, profile = "table2a/r50_c4", "mini"
    iterations = 500

    def __init__(self, *inputs: Row) -> None:
        self.inputs = tuple(("proposals", stage) for stage in inputs)


@pytest.mark.parametrize(
    ("argv", "seconds", "slots", "expected"),
    [
        (["--jobs", "2"], 3000.0, [Slot(threads=2)] * 2, [Slot()]),
        (["--jobs", "2"], 30.0, [Slot(threads=2)] * 2, [Slot(threads=2)] * 2),
        (["--jobs", "2", "train.num_threads=1"], 3000.0, [Slot(threads=2)] * 2, None),
        ([], 3000.0, [Slot()], None),
        (["--jobs", "2"], 3000.0, [Slot(gpus=("0",)), Slot(gpus=("1",))], None),
    ],
)
def test_long_work_on_a_cpu_is_tried_first(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    argv: list[str],
    seconds: float,
    slots: list[Slot],
    expected: list[Slot] | None,
) -> None:
    stage = Row()
    jobs = [stage, Row(stage)]
    tried = []

    def trial_of(job: Row, *rest: object) -> trial.Measure:
        tried.append(job)
        return Machine({2: 1.0, 1: 1.1}).measure

    monkeypatch.setattr(main, "trial_of", trial_of)
    monkeypatch.setattr(main, "usable_cpus", lambda: 4)
    args = parse_args(["2b", *argv])
    estimates = dict.fromkeys(jobs, Estimate(seconds, ""))
    found = main._fastest(args, jobs, estimates, slots, tmp_path, [])  # type: ignore[arg-type]
    assert found == (slots if expected is None else expected)
    assert tried == ([stage] if expected == [Slot()] else [])
