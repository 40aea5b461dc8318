"""`--verify` from the command line: what it prints, and its exit statuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mask_rcnn_tools.train.cli import parse_args

from .run_helpers import QUICKSTART, REPOSITORY, launch, start


@pytest.fixture
def evaluation(trained: Path) -> tuple[str, ...]:
    return "--eval-only", f"train.init_checkpoint={trained / 'model_final.pth'}"


def test_a_recorded_run_is_met_by_its_own_weights(
    tmp_path: Path, trained: Path, evaluation: tuple[str, ...]
) -> None:
    out = launch(tmp_path, *evaluation, "--verify", str(trained / "record.json")).succeeded()
    table = out[out.index("Verified against record.json (quickstart/mask_rcnn_r18_fpn, profile") :]
    assert "segm/AP " in table and "bbox/AP (cog)" in table
    assert "Met: all" in table.splitlines()[-1]


def test_numbers_that_are_not_met_have_their_own_status(
    tmp_path: Path, evaluation: tuple[str, ...]
) -> None:
    own = ("train.verify.expected={segm/AP: 99, bbox/AP: 99}", "train.verify.tolerance=0.2")
    outcome = launch(tmp_path, *evaluation, "--verify", *own)
    assert outcome.code == 3, outcome.err
    assert "Not met: 2 of 2 numbers." in outcome.out and "too low" in outcome.out
    assert (tmp_path / "output").is_dir()  # evaluated and recorded all the same
    generous = launch(tmp_path, *evaluation, "--verify", own[0], "train.verify.tolerance=99")
    assert "Met: all 2 numbers." in generous.succeeded()


@pytest.mark.slow
def test_status_of_several_processes(tmp_path: Path, evaluation: tuple[str, ...]) -> None:
    own = "train.verify.expected={segm/AP: 99}"
    command = (str(REPOSITORY / "train_net.py"), "--config-file", str(QUICKSTART))
    flags = ("--profile", "tiny", "--num-gpus", "2", "--verify", own)
    outcome = start(tmp_path, *command, *flags, *evaluation, CUDA_VISIBLE_DEVICES="")
    assert outcome.code == 3, outcome.err
    assert "Not met: 1 of 1 numbers." in outcome.out


def test_what_cannot_be_compared_is_told_before_any_work(
    tmp_path: Path, evaluation: tuple[str, ...]
) -> None:
    message = launch(tmp_path, *evaluation, "--verify").failed_plainly()
    assert "no row of the paper" in message and "--verify recorded" in message
    row = launch(tmp_path, "--verify", config="table2a/r50_fpn").failed_plainly()
    assert "profile tiny is a small model on generated data" in row
    assert not list(tmp_path.rglob("record.json"))


def test_a_number_that_is_missing_is_no_pass(tmp_path: Path, evaluation: tuple[str, ...]) -> None:
    outcome = launch(tmp_path, *evaluation, "--verify", "train.verify.expected={keypoints/AP: 1}")
    assert "missing in this evaluation: keypoints/AP" in outcome.failed_plainly()


def test_verify_takes_a_record_or_nothing() -> None:
    config = ["--config-file", "x.py"]
    assert parse_args(config).verify is None
    assert parse_args([*config, "--verify"]).verify == "paper"
    assert parse_args([*config, "--verify", "a.json"]).verify == "a.json"
    mixed = parse_args([*config, "b=2", "--verify", "a=1", "--seed", "3"])
    assert (mixed.verify, sorted(mixed.overrides)) == ("paper", ["a=1", "b=2"])
    with pytest.raises(SystemExit):
        parse_args([*config, "--verify", "--print-config"])


def test_record_of_other_data_is_an_error(
    tmp_path: Path, trained: Path, evaluation: tuple[str, ...]
) -> None:
    content = json.loads((trained / "record.json").read_text())
    content["test_data"]["fingerprint"] = "sha256:" + 64 * "a"
    (tmp_path / "other.json").write_text(json.dumps(content))
    message = launch(tmp_path, *evaluation, "--verify", "other.json").failed_plainly()
    assert "is of other data" in message
