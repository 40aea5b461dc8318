"""What is refused before a run begins, and what is not any more once it has begun."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mask_rcnn_repro import get_config, register
from mask_rcnn_repro.engine.dependencies import check_dependencies
from mask_rcnn_repro.engine.run import Run
from mask_rcnn_repro.errors import CheckpointError

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
