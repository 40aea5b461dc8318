"""Other data sets by config keys alone: one's own in COCO format, and real COCO."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mask_rcnn_embedded import quickstart as embedded
from mask_rcnn_repro.config import load_config
from mask_rcnn_repro.records.record import load_record
from mask_rcnn_tools import Predictor

from .run_helpers import REPOSITORY, CommandResult, launch, load, metrics, results, start

SAMPLE = REPOSITORY.parent / "shared" / "data"
R50_FPN = REPOSITORY / "configs" / "table2a" / "r50_fpn.py"
TRAIN, TEST = "dataloader.train.dataset", "dataloader.test.dataset"
# id in the embedded data -> id and name in one's own: neither contiguous nor in order
OWN = {1: (90, "walker"), 2: (7, "beaker"), 4: (13, "frond")}


@pytest.fixture(scope="module")
def own_data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Writes three of the embedded data's classes under other ids; returns overrides."""
    source = embedded.ensure_generated(embedded.TINY_SPEC)
    folder = tmp_path_factory.mktemp("own")
    keys = []
    for key, split in ((TRAIN, "train"), (TEST, "val")):
        content = json.loads((source / "annotations" / f"instances_{split}.json").read_text())
        content["annotations"] = [
            {**a, "category_id": OWN[a["category_id"]][0]}
            for a in content["annotations"]
            if a["category_id"] in OWN
        ]
        content["categories"] = [{"id": i, "name": name} for i, name in OWN.values()]
        (folder / f"{split}.json").write_text(json.dumps(content))
        keys += [
            f"{key}.names=own_{split}",
            f"{key}.json={folder / f'{split}.json'}",
            f"{key}.image_root={source / split}",
        ]
    return keys


def _classes_of_head(checkpoint: Path) -> int:
    return load(checkpoint)["model"]["roi_heads.box_predictor.cls_score.bias"].shape[0] - 1


@pytest.mark.slow
def test_own_data_brings_its_classes(own_data: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    out = launch(tmp_path, *own_data, "train.draw=2", f"train.output_dir={run}").succeeded()
    assert "model.roi_heads.num_classes: 7 -> 3" in out
    assert _classes_of_head(run / "model_final.pth") == 3
    assert load_config(run / "config.yaml").model.roi_heads.num_classes == 3
    record = load_record(run / "record.json")
    for task in ("bbox", "segm"):
        assert set(record.metrics[task].per_class) == {"walker", "beaker", "frond"}
    assert record.train_data is not None and record.train_data.name == "own_train"
    found = results(run, "own_val")
    ids = {d["category_id"] for d in found["bbox_results"]}
    assert ids <= {90, 7, 13} and len(ids) > 1
    assert len(list((run / "drawings").glob("*.png"))) == 2

    again = tmp_path / "again"
    weights = [f"train.init_checkpoint={run / 'model_final.pth'}", f"train.output_dir={again}"]
    launch(tmp_path, *own_data, "train.draw=0", "--eval-only", *weights).succeeded()
    assert results(again, "own_val") == found
    assert load_record(again / "record.json").metrics == record.metrics
    # its own config has the keys
    words = ["--profile", "paper", "--eval-only"]
    launch(tmp_path, *words, "train.draw=0", config=run).succeeded()
    (folder,) = (run / "eval").iterdir()
    assert results(folder, "own_val") == found
    predictor = Predictor.from_run(run, device="cpu")
    assert set(predictor.classes.names) == {"walker", "beaker", "frond"}


def test_wrong_class_count_is_refused(own_data: list[str], tmp_path: Path) -> None:
    message = launch(tmp_path, *own_data, "model.roi_heads.num_classes=4").failed_plainly()
    assert "is 4" in message and "3 classes" in message and "walker" in message
    assert "model.roi_heads.num_classes=3" in message
    assert list(tmp_path.iterdir()) == []


def test_right_class_count_may_be_given(own_data: list[str], tmp_path: Path) -> None:
    keys = ["model.roi_heads.num_classes=3", "train.max_iter=1", "train.draw=0"]
    launch(tmp_path, *own_data, *keys, f"train.output_dir={tmp_path / 'run'}").succeeded()


def test_head_that_does_not_fit_the_test_data(
    own_data: list[str], trained: Path, tmp_path: Path
) -> None:
    test_keys = [key for key in own_data if key.startswith(TEST)]
    weights = f"train.init_checkpoint={trained / 'model_final.pth'}"
    message = launch(tmp_path, *test_keys, "--eval-only", weights).failed_plainly()
    assert "own_val" in message and "3 classes" in message


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ({"categories": []}, ["categories"]),
        ({"annotations": []}, ["annotation", "own_broken"]),
        ({"images": ...}, ["images"]),
    ],
)
def test_broken_json_stops_plainly(
    own_data: list[str], tmp_path: Path, broken: dict[str, Any], words: list[str]
) -> None:
    file = Path(own_data[1].partition("=")[2])
    content = {**json.loads(file.read_text()), **broken}
    content = {key: value for key, value in content.items() if value is not ...}
    (tmp_path / "broken.json").write_text(json.dumps(content))
    name = f"own_broken_{next(iter(broken))}"
    keys = [f"{TRAIN}.names={name}", f"{TRAIN}.json={tmp_path / 'broken.json'}", own_data[2]]
    message = launch(tmp_path, *keys, *own_data[3:]).failed_plainly()
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("change", "keys", "words"),
    [
        ({"category_id": 5}, [], ["annotation", "category id 5"]),
        ({}, ["+dataloader.evaluator.max_dets=[]"], ["max_dets", "from 1 on"]),
    ],
)
def test_faults_of_the_evaluation_are_reported_before_training(
    own_data: list[str], tmp_path: Path, change: dict[str, Any], keys: list[str], words: list[str]
) -> None:
    content = json.loads(Path(own_data[4].partition("=")[2]).read_text())
    content["annotations"][-1].update(change)
    file, run = tmp_path / "broken.json", tmp_path / "run"
    file.write_text(json.dumps(content))
    name = f"own_broken_{len(keys)}"  # a name stands for one file in a process
    test_keys = [f"{TEST}.names={name}", f"{TEST}.json={file}", own_data[5]]
    keys = [*own_data[:3], *test_keys, *keys, f"train.output_dir={run}"]
    message = launch(tmp_path, *keys).failed_plainly()
    assert all(word in message for word in words)
    assert not list(run.glob("*.pth")) and not (run / "metrics.json").exists()


needs_sample = pytest.mark.skipif(
    not (SAMPLE / "coco").is_dir(), reason="no COCO sample at ../shared/data beside the checkout"
)


@pytest.mark.slow
@needs_sample
def test_the_papers_splits_of_real_coco(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(SAMPLE))
    run = tmp_path / "run"
    keys = [f"{TRAIN}.names=coco_trainval35k", f"{TEST}.names=coco_minival"]
    keys += ["train.draw=2", f"train.output_dir={run}"]
    _check_real_run(run, launch(tmp_path, *keys, config=R50_FPN))


@pytest.mark.slow
@needs_sample
def test_real_coco_from_the_checkout(tmp_path: Path) -> None:
    # In a process of its own: Detectron2 fixes the folder of these names when it is imported.
    run = tmp_path / "run"
    command = ["train_net.py", "--config-file", "configs/table2a/r50_fpn.py", "--profile", "tiny"]
    keys = [f"{TRAIN}.names=coco_2017_train", f"{TEST}.names=coco_2017_val"]
    keys += ["train.draw=2", f"train.output_dir={run}"]
    outcome = start(REPOSITORY, *command, *keys, DETECTRON2_DATASETS="../shared/data")
    _check_real_run(run, outcome)
    assert outcome.err == ""


def _check_real_run(run: Path, outcome: CommandResult) -> None:
    assert "model.roi_heads.num_classes: 7 -> 80" in outcome.succeeded()
    assert _classes_of_head(run / "model_final.pth") == 80
    record = load_record(run / "record.json")
    assert record.test_data is not None and record.test_data.images == 22
    assert record.train_data is not None and record.train_data.images == 60
    assert set(record.metrics) == {"bbox", "segm"}
    assert len(record.metrics["segm"].per_class) == 80
    assert metrics(run)[-1]["iteration"] == record.iterations_planned
    assert len(list((run / "drawings").glob("*.png"))) == 2


def test_data_that_is_not_there_names_what_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "nowhere"))
    keys = [f"{TRAIN}.names=coco_trainval35k", f"{TEST}.names=coco_minival"]
    message = launch(tmp_path, *keys, config=R50_FPN).failed_plainly()
    assert str(tmp_path / "nowhere") in message and "instances_train2017.json" in message
    assert "DETECTRON2_DATASETS" in message


def test_a_test_set_of_other_classes_is_refused(tmp_path: Path) -> None:
    message = launch(
        tmp_path, "dataloader.test.dataset.names=coco_minival", f"train.output_dir={tmp_path / 'r'}"
    ).failed_plainly()
    assert "has 80 classes" in message and "dataloader.test.dataset" in message
