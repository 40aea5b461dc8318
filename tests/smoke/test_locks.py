"""Runs started side by side: stages are shared, one run at a time works in a folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mask_rcnn_repro.errors import UserError
from mask_rcnn_repro.utils.locks import LOCK_FILE, exclusive

from .run_helpers import REPOSITORY, environment, launch
from .stage_helpers import R50_FPN, RPN_RUN, SHORT

HOLD = """
import os, sys, time
from filelock import FileLock
os.makedirs(sys.argv[1], exist_ok=True)
with FileLock(os.path.join(sys.argv[1], sys.argv[2])):
    print("held", flush=True)
    time.sleep(float(sys.argv[3]))
"""


def hold(folder: Path, seconds: float) -> subprocess.Popen[str]:
    """Another process that holds a folder (without importing torch, which takes seconds)."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), LOCK_FILE, str(seconds)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_held_folder_is_refused_and_a_killed_holder_releases_it(tmp_path: Path) -> None:
    holder = hold(tmp_path, 600)
    with (
        pytest.raises(UserError, match=r"Another run uses .*Start this one again"),
        exclusive(tmp_path, purpose="a test", wait=False),
    ):
        pass
    holder.kill()
    holder.wait()
    with exclusive(tmp_path, purpose="a test", wait=False) as waited:
        assert not waited


def test_waiting_ends_when_the_holder_ends(tmp_path: Path) -> None:
    holder = hold(tmp_path, 1)
    with exclusive(tmp_path, purpose="a test", wait=True) as waited:
        assert waited
        assert holder.wait() == 0


def test_the_folder_is_free_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), exclusive(tmp_path / "new", purpose="a test", wait=False):
        raise KeyError
    assert (tmp_path / "new" / LOCK_FILE).is_file()
    with exclusive(tmp_path / "new", purpose="a test", wait=False):
        pass


def test_a_second_start_of_the_same_run_is_refused(tmp_path: Path) -> None:
    holder = hold(tmp_path / "run", 600)
    try:
        outcome = launch(tmp_path, *SHORT, "train.proposals=null", "train.output_dir=run")
    finally:
        holder.kill()
    message = outcome.failed_plainly()
    assert "Another run uses run" in message
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.slow
def test_rows_started_together_make_their_rpn_once(tmp_path: Path) -> None:
    rows = (R50_FPN, REPOSITORY / "configs" / "section4_2" / "fpn_roi_pool.py")
    command = [sys.executable, str(REPOSITORY / "train_net.py"), "--profile", "tiny", *SHORT]
    started = [
        subprocess.Popen(
            [*command, "--config-file", str(row)],
            cwd=tmp_path,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for row in rows
    ]
    printed = [process.communicate(timeout=400)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], printed
    trained = [text.count("Running rpn/r50_fpn first") for text in printed]
    assert sorted(trained) == [0, 1], printed
    # unless the second was so late that all was there, it says what it waited for
    assert sum("Another run is at work" in text for text in printed) <= 1
    assert (tmp_path / RPN_RUN / "record.json").is_file()
