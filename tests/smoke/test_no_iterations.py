"""A row without training: the weights of another run, evaluated in another way."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mask_rcnn_repro.records.record import load_record

from .run_helpers import ITERATIONS, RUN, CommandResult, launch
from .stage_helpers import write_config

pytestmark = pytest.mark.slow  # test_kinds.py evaluates with max_iter=0 as well

ROW = "quickstart/mask_rcnn_r18_fpn"
LINES = (f'train.init_from = "{ROW}"', "train.max_iter = 0", 'train.output_dir = "again"')


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CommandResult]:
    """Folder and outcome of such a run whose source did not exist."""
    folder = tmp_path_factory.mktemp("no_iterations")
    outcome = launch(folder, config=write_config(folder / "evaluated.py", ROW, *LINES))
    outcome.succeeded()
    return folder, outcome


def test_the_source_is_trained_and_its_weights_are_evaluated(
    made: tuple[Path, CommandResult],
) -> None:
    folder, outcome = made
    source, run = (
        load_record(folder / RUN / "record.json"),
        load_record(folder / "again/record.json"),
    )
    assert (source.iterations_done, run.iterations_done, run.iterations_planned) == (
        ITERATIONS,
        0,
        0,
    )
    assert source.metrics == run.metrics
    assert run.init_from is not None
    assert run.init_from.checkpoint == source.checkpoint.sha256
    ours, theirs = (
        torch.load(folder / place / "model_final.pth", weights_only=True)["model"]
        for place in ("again", RUN)
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert "never drops" not in outcome.out  # of a schedule that is not followed


def test_it_is_finished_and_can_be_evaluated_again(made: tuple[Path, CommandResult]) -> None:
    folder, _ = made
    config = folder / "evaluated.py"
    before = load_record(folder / "again" / "record.json")
    text = launch(folder, "--resume", config=config).succeeded()
    assert "Missing" not in text
    assert load_record(folder / "again" / "record.json").metrics == before.metrics
    launch(folder, "--resume", "--eval-only", config=config).succeeded()
    (file,) = (folder / "again").glob("eval/last*/record.json")
    assert load_record(file).metrics == before.metrics
