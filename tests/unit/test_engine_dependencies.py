"""What is refused before a run begins, and what is not any more once it has begun."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mask_rcnn_repro import get_config, register
from mask_rcnn_repro.engine.dependencies import check_dependencies, command, dependency
from mask_rcnn_repro.engine.run import Run
from mask_rcnn_repro.engine.stages.up_to_date import check_stage_seeds
from mask_rcnn_repro.errors import CheckpointError, ConfigError

from .tables_helpers import record

GONE = "train.init_checkpoint=gone.pth"


def run(folder: Path, config: str = "quickstart/mask_rcnn_r18_fpn", *overrides: str) -> Run:
    register()
    cfg = get_config(config, profile="tiny", overrides=list(overrides))
    return Run(config, cfg, folder, torch.device("cpu"))


@pytest.mark.parametrize("begun", [None, "record.json", "last_checkpoint"])
def test_missing_weights_stop_what_has_not_begun(tmp_path, begun):
    """The weights of a finished run may have been deleted, and those that it began with."""
    if begun is None:
        with pytest.raises(CheckpointError, match=r"gone\.pth.*does not exist"):
            check_dependencies(run(tmp_path, "quickstart/mask_rcnn_r18_fpn", GONE))
        return
    (tmp_path / begun).write_text("model_final.pth")
    check_dependencies(run(tmp_path, "quickstart/mask_rcnn_r18_fpn", GONE))


def test_an_evaluation_does_not_need_them(tmp_path):
    check_dependencies(run(tmp_path, "quickstart/mask_rcnn_r18_fpn", GONE), eval_only=True)


@pytest.mark.parametrize("begins_with", ["catalog://ImageNetPretrained/x", "https://a/b.pth", ""])
def test_addresses_are_looked_at_when_they_are_loaded(tmp_path, begins_with):
    check_dependencies(
        run(tmp_path, "quickstart/mask_rcnn_r18_fpn", f"train.init_checkpoint='{begins_with}'")
    )


def test_what_a_run_depends_on_may_have_lost_its_weights(tmp_path, monkeypatch):
    """Its proposals may be there all the same."""
    monkeypatch.chdir(tmp_path)
    row = run(tmp_path / "row", "table2a/r50_fpn")
    folder = tmp_path / "output" / "rpn" / "r50_fpn@tiny" / "seed0"
    folder.mkdir(parents=True)
    (folder / "last_checkpoint").write_text("model_final.pth")
    check_dependencies(row)


@pytest.mark.parametrize(
    ("seed", "overrides", "stage"),
    [(0, (), 0), (1, (), 1), (6, (), 0), (7, (), 1), (7, ("train.stage_seed=0",), 0)],
)
def test_seeds_use_two_stages_in_rotation(tmp_path, monkeypatch, seed, overrides, stage):
    monkeypatch.chdir(tmp_path)
    row = run(tmp_path, "table2b/softmax", f"train.seed={seed}", *overrides)
    rpn = dependency(row, row.cfg.train.proposals, ())
    assert rpn.cfg.train.seed == stage
    assert rpn.folder == Path(f"output/rpn/r50_c4@tiny/seed{stage}")
    assert command(rpn).endswith(" --seed 1") == (stage == 1)


def test_a_row_without_training_takes_the_weights_of_its_seed(tmp_path):
    row = run(tmp_path, "enhanced_r50/test_aug", "train.seed=5")
    assert dependency(row, row.cfg.train.init_from, ()).cfg.train.seed == 5


def test_a_finished_run_on_another_stage_is_refused(tmp_path):
    row = run(tmp_path, "table2b/softmax", "train.seed=3")
    source = {"id": "rpn/r50_c4", "hash": "0" * 12, "seed": 1, "checkpoint": None}
    check_stage_seeds(row, record(proposals=source))
    check_stage_seeds(row, record())
    with pytest.raises(ConfigError, match=r"used seed 0 of rpn/r50_c4; seed 3 now uses seed 1"):
        check_stage_seeds(row, record(proposals=source | {"seed": 0}))
    student = run(tmp_path, "enhanced_r50/data_distillation", "train.seed=3")
    check_stage_seeds(student, record(teacher=source | {"id": "table9/original"}))
    with pytest.raises(ConfigError, match=r"used seed 0 of table9/original; seed 3 now uses"):
        check_stage_seeds(student, record(teacher=source | {"id": "table9/original", "seed": 0}))
