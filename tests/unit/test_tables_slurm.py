"""Jobs for Slurm: dependencies in the scripts, and a job that really runs (on this machine)."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path

import pytest

from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_tools.tables.slurm import TrainJob, submit, waiting_ids

from .tables_helpers import command, events, job

submitit = pytest.importorskip("submitit")


def submitted(tmp_path, jobs, dry_run=True, **options):
    return submit(
        jobs,
        command(tmp_path),
        tmp_path / "slurm",
        dict.fromkeys(jobs, 60.0),
        options,
        gpus_per_row=8,
        extra=["--num-gpus", "8"],
        table_command=["python", "run_table.py", "2b", "--show"],
        dry_run=dry_run,
    )


@pytest.fixture
def jobs(tmp_path):
    stage = job(tmp_path, "stage")
    rows = [job(tmp_path, "row", s, inputs=(("proposals", stage),)) for s in range(2)]
    return [stage, *rows]


def options_of(script):
    return dict(re.findall(r"#SBATCH --([a-z-]+)=(.*)", Path(script).read_text()))


def test_scripts_are_written_without_a_cluster(tmp_path, jobs):
    plan = submitted(tmp_path, jobs, partition="gpu", cpus_per_task=16)
    assert [entry["dependency"] for entry in plan["jobs"]] == [
        None,
        "afterok:1",
        "afterok:1",
        "afterany:1:2:3",  # the table is printed whatever failed
    ]
    stage, row, _, table = (options_of(entry["script"]) for entry in plan["jobs"])
    assert "dependency" not in stage
    assert row["dependency"] == "afterok:1"
    assert (row["partition"], row["cpus-per-task"], row["gpus-per-node"]) == ("gpu", "16", "8")
    assert row["kill-on-invalid-dep"] == "yes"
    assert row["job-name"] == "row-seed0"
    assert row["time"] == "91"  # one and a half times the estimate
    assert "gpus-per-node" not in table
    assert plan["jobs"][1]["command"][-3:] == ["--resume", "--num-gpus", "8"]
    assert "export PYTHONPATH=" in Path(plan["jobs"][0]["script"]).read_text()
    assert json.loads((tmp_path / "slurm" / "plan.json").read_text()) == plan
    assert plan["submitted"] is False
    assert waiting_ids(tmp_path / "slurm") == []


def test_an_unknown_option_is_a_users_mistake(tmp_path, jobs):
    with pytest.raises(ConfigError, match=r"--slurm-set.*partitoin"):
        submitted(tmp_path, jobs, partitoin="gpu")


def test_where_there_is_no_slurm(tmp_path, jobs, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"--dry-run .*anywhere"):
        submitted(tmp_path, jobs, dry_run=False)


SBATCH = """#!/bin/sh
echo "$@" >> {folder}/calls
n=$(wc -l < {folder}/calls)
cp "$1" {folder}/script$n
echo "Submitted batch job $((1000 + n))"
"""


def test_submitting_to_a_stand_in_for_slurm(tmp_path, jobs, monkeypatch):
    """`sbatch` gets one script a run, with the ids that it gave out itself."""
    programs = tmp_path / "bin"
    programs.mkdir()
    queue = "#!/bin/sh\nprintf '1001\\n1003\\n77\\n'\n"
    for name, text in {
        "sbatch": SBATCH.format(folder=programs),
        "srun": "#!/bin/sh\n",
        "squeue": queue,
    }.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    plan = submitted(tmp_path, jobs, dry_run=False)
    assert [entry["id"] for entry in plan["jobs"]] == ["1001", "1002", "1003", "1004"]
    given = [options_of(programs / f"script{n}").get("dependency") for n in range(1, 5)]
    assert given == [None, "afterok:1001", "afterok:1001", "afterany:1001:1002:1003"]
    assert waiting_ids(tmp_path / "slurm") == ["1001", "1003"]


@pytest.mark.slow
def test_a_job_runs_by_submitit(tmp_path):
    """On this machine, by submitit's own executor for one: pickled, started elsewhere, awaited."""
    one = job(tmp_path, "row")
    executor = submitit.LocalExecutor(folder=tmp_path / "local")
    done = executor.submit(TrainJob([*command(tmp_path), *one.arguments()], str(tmp_path)))
    assert done.result() == 0
    assert [e[0] for e in events(tmp_path)] == ["begin", "end"]
    assert (one.folder / "record.json").is_file()


def test_a_failing_run_fails_the_job(tmp_path):
    bad = job(tmp_path, "fail")
    with pytest.raises(RuntimeError, match="exit status 2"):
        TrainJob([*command(tmp_path), *bad.arguments()], str(tmp_path))()


def test_before_a_time_limit_the_run_is_asked_to_stop_and_queued_again(tmp_path):
    import threading

    slow = job(tmp_path, "slow")
    work = TrainJob([*command(tmp_path), *slow.arguments()], str(tmp_path))
    ended = []
    thread = threading.Thread(target=lambda: ended.append(_failure(work)))
    thread.start()
    end = time.monotonic() + 30
    while not (slow.folder / "metrics.json").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    again = work.checkpoint()
    thread.join(30)
    assert [e[0] for e in events(tmp_path)] == ["begin", "asked"]
    assert ended == ["143"]
    assert again.function.command == work.command
    assert sys.executable in again.function.command


def _failure(work):
    with pytest.raises(RuntimeError) as error:
        work()
    return str(error.value).rpartition(" ")[2]


def test_slurms_warning_does_not_end_the_run(tmp_path):
    warned = "import os, signal; os.kill(os.getpid(), signal.SIGUSR2)"
    assert TrainJob([sys.executable, "-c", warned], str(tmp_path))() == 0
