"""The soak's own judgement: what it compares, and that it finds what differs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from soak.cli import parse_args
from soak.compare import differences
from soak.faults import FAULTS, LostError, expect
from soak.main import main
from soak.process import Training

ROWS = [{"iteration": i, "total_loss": 1.5 - i} for i in range(3)]


def finished(folder: Path) -> Training:
    (folder / "inference" / "val").mkdir(parents=True)
    state = {"model": {"w": torch.arange(4.0)}, "trainer": {"iteration": 2, "lists": [1, (2, 3)]}}
    torch.save(state, folder / "model_final.pth")
    (folder / "record.json").write_text(json.dumps({"metrics": {"bbox": {"AP": 1.0}}, "date": "x"}))
    rows = [*ROWS, {"iteration": 2, "bbox/AP": 1.0}]
    (folder / "metrics.json").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "inference" / "val" / "bbox_results.json").write_text("[1]")
    return Training(folder, [])


def test_equal_runs(tmp_path):
    one, two = finished(tmp_path / "one"), finished(tmp_path / "two")
    assert differences(one, two) == []
    # stopped runs log other lines; what they share counts
    (tmp_path / "one" / "metrics.json").write_text(
        json.dumps(ROWS[2] | {"bbox/AP": 1.0}) + "\n" + '{"iteration": 1, "tot'
    )
    assert differences(one, two) == []


@pytest.mark.parametrize("what", ["weights", "metrics", "evaluations", "detections"])
def test_what_differs_is_found(tmp_path, what):
    one, two = finished(tmp_path / "one"), finished(tmp_path / "two")
    folder = tmp_path / "one"
    if what == "weights":
        state = torch.load(folder / "model_final.pth")
        state["model"]["w"][3] += 1e-6
        torch.save(state, folder / "model_final.pth")
    elif what == "metrics":
        (folder / "record.json").write_text(json.dumps({"metrics": {"bbox": {"AP": 1.1}}}))
    elif what == "detections":
        (folder / "inference" / "val" / "bbox_results.json").write_text("[2]")
    else:
        file = folder / "metrics.json"
        file.write_text(file.read_text().replace("bbox/AP", "bbox/AP50"))
    found = differences(one, two)
    assert len(found) == 1, found


def test_what_can_be_seen_of_a_run(tmp_path):
    run = Training(tmp_path / "run", ["--profile", "tiny"])
    assert (run.iterations(), run.saved(), run.saving()) == (0, 0, False)
    finished(tmp_path / "run")
    (tmp_path / "run" / "last_checkpoint").write_text("model_0000007.pth")
    assert (run.iterations(), run.saved()) == (3, 8)
    (tmp_path / "run" / ".model_0000009.pth.0123456789abcdef.partial").touch()
    assert run.saving()
    assert run.arguments[-2:] == [f"train.output_dir={tmp_path / 'run'}", "--resume"]


def test_command_line(capsys):
    args = parse_args(["--minutes", "0.5", "train.num_threads=1"])
    assert (args.minutes, args.profile, args.overrides) == (0.5, "mini", ["train.num_threads=1"])
    for wrong in (["--minutes", "-1"], ["--period", "0"], ["nonsense"]):
        with pytest.raises(SystemExit) as stop:
            parse_args(wrong)
        assert stop.value.code == 2
    assert len(FAULTS) == 10
    with pytest.raises(LostError, match="weights"):
        expect(False, "weights")


def test_an_earlier_soak_is_not_written_over(tmp_path, capsys):
    (tmp_path / "whole").mkdir()
    with pytest.raises(SystemExit) as stop:
        main(parse_args(["--output", str(tmp_path)]))
    assert stop.value.code == 2 and "holds an earlier soak" in capsys.readouterr().err


def test_it_starts_as_a_command(tmp_path):
    soak = Path(__file__).resolve().parents[1] / "soak"
    done = subprocess.run(
        [sys.executable, str(soak), "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    assert "usage: tests/soak [flags]" in done.stdout
