"""Data distillation from the command line: a trained model annotates, another learns from it."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from pathlib import Path

import pytest
from pycocotools.coco import COCO

from mask_rcnn_repro.data.registration import coco_parts
from mask_rcnn_repro.distillation.predictions import PredictionStore
from mask_rcnn_repro.records.record import load_record
from mask_rcnn_tools.distill.cli import parse_args
from mask_rcnn_tools.distill.main import main

from .run_helpers import QUICKSTART, REPOSITORY, RUN, CommandResult, _undone, launch, start
from .stage_helpers import write_config

PERSONS = "table5/keypoint_only"
FEW = "model.roi_heads.box_predictor.test_topk_per_image=4"
KEYS = ("train.proposals=null", "train.draw=0", "train.max_iter=2", FEW)
VIEWS = "train.tta.sizes=[48,64]"
SMALL = ("--images-per-file", "3")


def distill(folder: Path, *argv: str, config: Path | str = QUICKSTART) -> CommandResult:
    """Runs `tools/distill.py` in this process, in `folder`, at `tiny`."""
    out, err = io.StringIO(), io.StringIO()
    with _undone(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(parse_args(["--config-file", str(config), "--profile", "tiny", *argv]))
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
    return CommandResult(code, out.getvalue(), err.getvalue())


def student(folder: Path, row: str) -> Path:
    """A config that learns from labeled and generated annotations."""
    return write_config(
        folder / "student.py",
        row,
        "from detectron2.config import LazyCall as L",
        "from mask_rcnn_repro.data import get_mixed_dicts",
        "_names = dataloader.train.dataset.names",
        "dataloader.train.dataset = L(get_mixed_dicts)(names=_names, generated_part=0.5)",
    )


@pytest.fixture(scope="module")
def trained_persons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in which a keypoint model was trained (`run`) and has annotated images (`whole`)."""
    folder = tmp_path_factory.mktemp("keypoints")
    launch(folder, *KEYS, "train.output_dir=run", config=PERSONS).succeeded()
    assert (
        "Generated annotations written"
        in distill(folder, *persons("whole"), config=PERSONS).succeeded()
    )
    return folder


def persons(output: str) -> tuple[str, ...]:
    return (*KEYS, VIEWS, "--checkpoint=run/model_final.pth", f"--output={output}", *SMALL)


def files(folder: Path) -> dict[str, bytes]:
    """What was made, without logs."""
    found = [folder / "generated.json", folder / "summary.json"]
    found += sorted((folder / "predictions").iterdir())
    return {str(p.relative_to(folder)): p.read_bytes() for p in found}


def check_generated(file: Path, labeled: str, task: str) -> COCO:
    """Annotations have what their task needs, about as many as the labeled images have."""
    coco = COCO(str(file))
    facts = json.loads(file.with_name("summary.json").read_text())
    assert coco.dataset["info"]["distillation"] == facts
    assert facts["labeled"]["names"] == [labeled]
    assert facts["transforms"] == {"sizes": [48, 64], "flip": True, "max_size": 4000}
    kept = len(coco.anns)
    assert kept == facts["threshold"]["instances"] > 0
    # the tiny images have few predictions, each with a score of its own
    assert abs(kept - facts["wanted_per_image"] * len(coco.imgs)) < 1
    assert all(task in ann for ann in coco.anns.values())
    assert min(ann["score"] for ann in coco.anns.values()) == facts["threshold"]["score"]
    return coco


@pytest.mark.slow
def test_masks_from_several_views_to_a_student(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / RUN)
    distill(tmp_path, VIEWS).succeeded()  # finds the weights of this config's own run
    file = RUN / "distilled" / "embedded_tiny_unlabeled" / "generated.json"
    check_generated(tmp_path / file, "embedded_tiny_train", "segmentation")
    config = student(tmp_path, "quickstart/mask_rcnn_r18_fpn")
    key = f"dataloader.train.dataset.generated={file}"
    keys = ("train.max_iter=2", "train.output_dir=student")
    out = launch(tmp_path, key, *keys, config=config).succeeded()
    assert "An epoch: 24 labeled images (24 draws) and" in out
    assert "(24 draws), 50.0 % generated" in out
    assert load_record(tmp_path / "student" / "record.json").iterations_done == 2
    # what was predicted is not needed any more
    shutil.rmtree((tmp_path / file).with_name("predictions"))
    again = distill(tmp_path, VIEWS).succeeded()
    assert "The generated annotations already exist" in again
    assert "Checkpointer" not in again
    assert not (tmp_path / file).with_name("predictions").exists()
    record = load_record(tmp_path / "student" / "record.json")
    assert record.train_data is not None and record.train_data.name == "embedded_tiny_train"
    assert record.generated_data is not None
    assert record.generated_data.name == "embedded_tiny_unlabeled"
    assert record.teacher is not None and record.teacher.id == "quickstart/mask_rcnn_r18_fpn"


def test_keypoints_to_a_student(trained_persons: Path, tmp_path: Path) -> None:
    file = trained_persons / "whole" / "generated.json"
    coco = check_generated(file, "embedded_tiny_person_train", "keypoints")
    assert all(ann["num_keypoints"] == 17 for ann in coco.anns.values())
    config = student(tmp_path, PERSONS)
    keys = (*KEYS, "train.output_dir=run", f"dataloader.train.dataset.generated={file}")
    launch(tmp_path, *keys, "dataloader.train.dataset.min_keypoints=1", config=config).succeeded()


def test_a_killed_run_goes_on_to_the_same(
    trained_persons: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = PredictionStore.write

    def killed_at_the_third(store, number, detections):
        if number == 2:
            raise KeyboardInterrupt
        write(store, number, detections)

    with monkeypatch.context() as patch:
        patch.setattr(PredictionStore, "write", killed_at_the_third)
        stopped = distill(trained_persons, *persons("killed"), config=PERSONS)
    assert (stopped.code, stopped.err) == (130, "Stopped; the same command continues from here.\n")
    assert not (trained_persons / "killed" / "generated.json").exists()
    out = distill(trained_persons, *persons("killed"), config=PERSONS).succeeded()
    assert "2 of 3 files of predictions already exist" in out
    assert files(trained_persons / "killed") == files(trained_persons / "whole")


@pytest.mark.slow
def test_two_processes_make_the_same(trained_persons: Path) -> None:
    command = str(REPOSITORY / "tools" / "distill.py")
    keys = ("--config-file", PERSONS, "--profile", "tiny", *persons("two"), "--processes", "2")
    start(trained_persons, command, *keys).succeeded()
    assert files(trained_persons / "two") == files(trained_persons / "whole")


def test_the_aim_can_be_changed_without_predicting_again(trained_persons: Path) -> None:
    shutil.copytree(trained_persons / "whole", trained_persons / "more")
    argv = (*persons("more"), "--instances-per-image=2", "--min-keypoint-score=2")
    out = distill(trained_persons, *argv, config=PERSONS).succeeded()
    assert "Checkpointer" not in out
    coco = COCO(str(trained_persons / "more" / "generated.json"))
    assert len(coco.anns) == 16
    assert all(ann["keypoints"] == [0] * 51 for ann in coco.anns.values())


def test_other_settings_are_refused(trained_persons: Path) -> None:
    argv = (*persons("whole"), "--single-view")
    message = distill(trained_persons, *argv, config=PERSONS).failed_plainly()
    assert "holds predictions of other settings:\n  transforms: {'sizes': [48, 64]" in message


def test_images_and_weights_must_be_known(trained: Path, tmp_path: Path) -> None:
    message = distill(tmp_path).failed_plainly()
    assert f"There is no trained model in {RUN}" in message and "--checkpoint FILE" in message
    weights = f"--checkpoint={trained / 'model_final.pth'}"
    message = distill(tmp_path, weights, "--unlabeled=nothing").failed_plainly()
    assert "'nothing' is not registered" in message
    images = coco_parts("embedded_tiny_unlabeled")[0]
    own = ("--unlabeled=mine", f"--unlabeled-json={images.json_file}")
    own += (f"--unlabeled-images={images.image_root}", "--output=mine", "--single-view", FEW)
    distill(tmp_path, weights, *own).succeeded()
    found = json.loads((tmp_path / "mine" / "summary.json").read_text())["unlabeled"]
    assert (found["name"], found["image_root"]) == ("mine", images.image_root)
