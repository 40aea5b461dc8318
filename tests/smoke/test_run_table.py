"""A table on the command line, at `tiny`: killed in the middle, continued, shown, collected."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mask_rcnn_repro.records.record import load_record
from mask_rcnn_tools.tables.choose import choose_rows, find_tables
from mask_rcnn_tools.tables.cli import parse_args
from mask_rcnn_tools.tables.main import main

from .run_helpers import REPOSITORY, environment

TOOL = str(REPOSITORY / "tools" / "run_table.py")
STAGE = Path("output/rpn/r50_c4@tiny/seed0/record.json")


def here(capsys, *argv):
    """Runs the tool in this process; exit status, output and errors."""
    code = 0
    try:
        main(parse_args(argv))
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A folder in which table 2b was begun, and its command killed while its first row ran."""
    folder = tmp_path_factory.mktemp("table")
    program = subprocess.Popen(
        [sys.executable, TOOL, "2b", "--profile", "tiny"],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert program.stdout is not None
    seen = []
    for line in program.stdout:
        seen.append(line)
        if line.startswith("started  table2b/softmax"):
            break
    log = folder / "output/tables/2b@tiny/logs/table2b-softmax-seed0.log"
    end = time.monotonic() + 60
    while not (log.is_file() and "Starting training" in log.read_text(errors="replace")):
        assert program.poll() is None, "".join(seen) + program.stdout.read()
        assert time.monotonic() < end
        time.sleep(0.02)
    os.kill(program.pid, signal.SIGKILL)
    program.wait()
    return folder


@pytest.mark.slow
def test_a_killed_table_goes_on(killed, monkeypatch, capsys):
    monkeypatch.chdir(killed)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not list(Path("output/table2b").rglob("record.json"))
    stage = STAGE.stat().st_mtime_ns
    code, out, err = here(capsys, "2b", "--profile", "tiny")
    assert code == 0, out + err
    assert "2b tiny: 2 runs" in out  # the stage is not run again
    assert STAGE.stat().st_mtime_ns == stage
    for row in ("softmax", "sigmoid"):
        assert f"done     table2b/{row} seed 0" in out
        made = load_record(f"output/table2b/{row}@tiny/seed0/record.json")
        assert made.iterations_done == made.iterations_planned
        assert re.search(rf"^{row} +mask AP +\d+\.\d +\d+\.\d +0 ", out, re.MULTILINE), out
    assert "tiny only shows that rows" in out
    written = json.loads(Path("output/tables/2b@tiny/table.json").read_text())
    assert [row["status"] for row in written["tables"][0]["rows"]] == ["complete", "complete"]
    assert shlex.split(written["command"])[1:4] == ["2b", "--profile", "tiny"]

    # what has a record is not run again, also under the name of a table with the same row
    code, out, _ = here(capsys, "2b", "--profile", "tiny")
    assert (code, "2b tiny: nothing to run." in out) == (0, True)
    code, out, _ = here(capsys, "2c", "--rows", "roi_align_ave", "--profile", "tiny", "--dry-run")
    assert "table2c/roi_align_ave seed 0: output/table2b/sigmoid@tiny/seed0/record.json" in out

    code, out, _ = here(capsys, "2b", "--profile", "tiny", "--collect", "--results", "results")
    assert (code, "3 records written to results" in out) == (0, True)
    nowhere = "train.output_root=nowhere"
    code, out, _ = here(
        capsys, "2b", "--profile", "tiny", "--show", "--results", "results", nowhere
    )
    assert (code, "sigmoid" in out) == (0, True)


@pytest.mark.slow
def test_a_failing_run_is_in_the_exit_status(tmp_path, monkeypatch, capsys):
    """A step that cannot be taken: the stage fails, its row is not started, the rest is said."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    Path("output/rpn/r50_c4@tiny").mkdir(parents=True)
    Path("output/rpn/r50_c4@tiny/seed0").write_text("a file in the way")
    code, out, _ = here(capsys, "2b", "--rows", "softmax", "--profile", "tiny")
    assert code == 1
    assert "FAILED   rpn/r50_c4 seed 0: exit status" in out
    assert "cannot be written to" in out
    assert "not run  table2b/softmax seed 0: needs rpn/r50_c4 seed 0, which failed" in out
    assert re.search(r"^softmax +mask AP +24.8 +failed", out, re.MULTILINE)


def test_a_plan_costs_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    code, out, _ = here(capsys, "3", "--profile", "tiny", "--dry-run", "--jobs", "2")
    assert code == 0
    assert "table3/r101_fpn seed 0 on test-dev" in out
    assert "up to 2 side by side" in out
    code, out, _ = here(capsys, "2b", "--profile", "tiny", "--slurm", "--dry-run")
    assert "Written, not submitted: 4 jobs" in out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["output"]  # the scripts
    code, out, _ = here(capsys, "2b", "--profile", "tiny", "--show", "train.output_root=other")
    assert (code, "not run" in out) == (1, True)


def test_an_unknown_table_is_told_plainly(capsys):
    code, _, err = here(capsys, "2f")
    assert code == 2
    assert err.startswith("error: There is no table '2f'. Did you mean 2a")


def test_an_ablation_is_planned_checked_and_shown(tmp_path, monkeypatch, capsys):
    """Without a run; `tests/smoke/test_extending.py` runs one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    words = (
        "quickstart/mask_rcnn_r18_fpn",
        "--sweep",
        "optimizer.lr=0.01,0.02",
        "--profile",
        "tiny",
    )
    code, out, _ = here(capsys, *words, "--seeds", "3", "--dry-run")
    assert code == 0
    name = "mask_rcnn_r18_fpn-sweep-lr"
    assert f"Ablation {name}:" in out
    assert re.search(r"^quickstart/mask_rcnn_r18_fpn +0\.02 +mask_rcnn_r18_fpn", out, re.MULTILINE)
    assert not Path("output").exists()  # a plan fixes nothing
    code, out, _ = here(capsys, *words, "--show")
    assert (code, "No claim can be judged yet." in out) == (1, True)
    code, _, err = here(capsys, *words[:1], "--plan-seeds")
    assert (code, "of an ablation give --seeds" in err) == (2, True)
    code, _, err = here(capsys, *words[:1], "--control", "table2a/r50_fpm")
    assert (code, "The control 'table2a/r50_fpm'" in err) == (2, True)


def test_documented_commands_are_understood():
    """Every command of the page and of README.md is understood; such as they are run above."""
    text = (REPOSITORY / "docs" / "running_tables.md").read_text()
    text += (REPOSITORY / "README.md").read_text()
    text = text.replace("\\\n", " ")
    commands = re.findall(r"^    python tools/run_table\.py (.*?)(?:  +#.*)?$", text, re.MULTILINE)
    assert len(commands) >= 6
    for command in commands:
        args = parse_args(shlex.split(command))
        if any(word.endswith(".py") for word in args.tables):  # does not exist here
            continue
        assert choose_rows(find_tables(args.tables), args.rows)
