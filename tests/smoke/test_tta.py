"""Evaluating with test-time augmentation from the command line."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from mask_rcnn_repro import build_predictor, get_config
from mask_rcnn_repro.config import config_hash, load_config
from mask_rcnn_repro.engine.builders import build_model
from mask_rcnn_repro.engine.tta import with_tta
from mask_rcnn_repro.modeling import StageWiseRCNN
from mask_rcnn_repro.records.record import load_record

from .run_helpers import QUICKSTART, RUN, launch, results
from .stage_helpers import RPN_RUN, SHORT

EVAL = ("--eval-only", "--resume")
FEW = "train.tta.sizes=[48, 64]"
NOTICE = "Test-time augmentation: shorter edges of"
# an untrained model's scores are near 1 / 8 for every box: some of them must pass
ROW = (*SHORT, "model.roi_heads.box_predictor.test_score_thresh=0.1")


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A folder with the run of a quickstart at `tiny`."""
    shutil.copytree(trained, tmp_path / RUN)
    return tmp_path


def evaluations(folder: Path) -> dict[str, Path]:
    return {
        f.name.partition("-tta-")[0] + "-tta" * ("-tta-" in f.name): f for f in folder.iterdir()
    }


def test_the_flag_evaluates_the_last_checkpoint_in_a_folder_of_its_own(run: Path) -> None:
    before = load_record(run / RUN / "record.json")
    out = launch(run, *EVAL, "--tta", FEW).succeeded()
    assert f"{NOTICE} 48, 64 pixels and mirrored" in out
    launch(run, *EVAL).succeeded()  # does not replace it
    folders = evaluations(run / RUN / "eval")
    assert set(folders) == {"last", "last-tta"}
    plain, augmented = (load_record(folders[n] / "record.json") for n in ("last", "last-tta"))
    assert augmented.mode == "eval"
    assert augmented.config.overrides == [FEW, "train.tta.enabled=true"]
    saved = load_config(folders["last-tta"] / "config.yaml")
    assert saved.train.tta.enabled and config_hash(saved) == augmented.config.hash
    assert plain.config.hash == before.config.hash != augmented.config.hash
    assert set(augmented.metrics) == set(plain.metrics) == {"bbox", "segm"}
    assert load_record(run / RUN / "record.json") == before
    assert results(folders["last"]) != results(folders["last-tta"])


def test_one_view_without_flips_is_plain_evaluation(run: Path) -> None:
    limit = load_config(QUICKSTART, "tiny").dataloader.test.mapper.augmentations[0]
    keys = [f"train.tta.sizes=[{max(limit.short_edge_length)}]", "train.tta.flip=false"]
    keys.append(f"train.tta.max_size={limit.max_size}")
    launch(run, *EVAL).succeeded()
    launch(run, *EVAL, "--tta", *keys).succeeded()
    folders = evaluations(run / RUN / "eval")
    plain, augmented = (results(folders[n]) for n in ("last", "last-tta"))
    assert set(plain) == set(augmented) == {"bbox_results", "segm_results"}
    same_boxes(plain["bbox_results"], augmented["bbox_results"])
    for mine, expected in zip(augmented["segm_results"], plain["segm_results"], strict=True):
        assert mine["segmentation"] == expected["segmentation"]


def same_boxes(plain: list, augmented: list) -> None:
    for key in ("image_id", "category_id"):
        assert [d[key] for d in plain] == [d[key] for d in augmented]
    for key, tolerance in (("bbox", 1e-3), ("score", 1e-4)):
        pair = [np.array([d[key] for d in found]) for found in (augmented, plain)]
        np.testing.assert_allclose(*pair, rtol=0, atol=tolerance)


def test_training_uses_it_at_the_end_alone(tmp_path: Path) -> None:
    keys = ["train.max_iter=2", "train.eval_period=1", "train.draw=0"]
    out = launch(tmp_path, *keys, "train.tta.enabled=true", FEW).succeeded()
    assert out.count(" images in 0:") == 2 and out.count(NOTICE) == 1
    assert out.index(" images in 0:") < out.index(NOTICE) < out.rindex(" images in 0:")


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stage-wise row with its RPN."""
    folder = tmp_path_factory.mktemp("stages")
    launch(folder, *ROW, "train.output_dir=run", config="table2a/r50_fpn").succeeded()
    return folder


@pytest.mark.slow
def test_a_stage_wise_row_needs_its_rpn_and_no_stored_proposals(
    stages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = stages / RPN_RUN / "proposals"
    kept = stored.rename(stored.with_name("kept"))
    argv = [*ROW, *EVAL, "--tta", FEW, "train.output_dir=run"]
    try:
        launch(stages, *argv, config="table2a/r50_fpn").succeeded()
        assert not stored.exists()
    finally:
        kept.rename(stored)
    record = load_record(next((stages / "run" / "eval").glob("last-tta-*")) / "record.json")
    assert record.proposals.id == "rpn/r50_fpn" and record.proposals.checkpoint
    # the same from Python
    monkeypatch.chdir(stages)
    cfg = get_config("table2a/r50_fpn", "tiny", [*ROW, FEW])
    joined = build_predictor(cfg, "run/model_final.pth", device="cpu")
    assert isinstance(joined, StageWiseRCNN)
    tta = with_tta(cfg, joined).eval()
    image = torch.randint(0, 256, (3, 90, 120), dtype=torch.uint8)
    ((found,), posted) = tta.inference([{"image": image}]), tta([{"image": image}])
    assert len(found) > 0 and posted[0]["instances"].pred_masks.shape[1:] == (90, 120)


@pytest.mark.slow
def test_averaging_over_one_view_of_stored_proposals_is_plain_evaluation(stages: Path) -> None:
    row = "table2a/r50_fpn"
    shutil.copytree(stages / "run", stages / "averaged")
    limit = load_config(row, "tiny").dataloader.test.mapper.augmentations[0]
    keys = [f"train.tta.sizes={list(limit.short_edge_length)}", "train.tta.flip=false"]
    keys += [f"train.tta.max_size={limit.max_size}", "train.tta.average_boxes=true"]
    argv = [*ROW, *EVAL, "train.output_dir=averaged"]
    launch(stages, *argv, config=row).succeeded()
    launch(stages, *argv, "--tta", *keys, config=row).succeeded()
    folders = evaluations(stages / "averaged" / "eval")
    plain, augmented = (results(folders[n]) for n in ("last", "last-tta"))
    assert len(plain["bbox_results"]) > 10
    same_boxes(plain["bbox_results"], augmented["bbox_results"])


def test_a_stage_wise_row_without_its_rpn_says_what_to_run(stages: Path, tmp_path: Path) -> None:
    weights = f"train.init_checkpoint={stages / 'run' / 'model_final.pth'}"
    argv = [*ROW, "--eval-only", "--tta", weights]
    message = launch(tmp_path, *argv, config="table2a/r50_fpn").failed_plainly()
    assert "no weights of rpn/r50_fpn" in message
    assert "train_net.py --config-file rpn/r50_fpn --profile tiny" in message
    assert not (tmp_path / RPN_RUN).exists()


def test_keypoints(tmp_path: Path) -> None:
    keys = ["train.proposals=null", "model.roi_heads.box_predictor.test_topk_per_image=3"]
    cfg = get_config("table5/keypoint_and_mask", "tiny", keys)
    torch.manual_seed(0)
    model = build_model(cfg, torch.device("cpu"))
    torch.save({"model": model.state_dict()}, tmp_path / "weights.pth")
    argv = ["--eval-only", "--tta", FEW, "train.init_checkpoint=weights.pth", "train.output_dir=e"]
    launch(tmp_path, *keys, *argv, config="table5/keypoint_and_mask").succeeded()
    found = results(tmp_path / "e", "embedded_tiny_person_val")
    assert set(found) == {"bbox_results", "segm_results", "keypoints_results"}
    assert all(len(d["keypoints"]) == 3 * 17 for d in found["keypoints_results"])


@pytest.mark.parametrize("argv", [["--eval-only", "--resume", "--tta"], ["train.tta.enabled=true"]])
def test_an_rpn_stage_is_refused_before_anything_is_done(stages: Path, argv: list[str]) -> None:
    message = launch(stages, *argv, config="rpn/r50_fpn").failed_plainly()
    assert "rpn/r50_fpn" in message and "no detections" in message
