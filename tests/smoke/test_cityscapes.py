"""Cityscapes through the command line: official numbers, files for the server, fine-tuning."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest

from mask_rcnn_repro.records.record import load_record

from .run_helpers import REPOSITORY, launch, load, results

FINE = REPOSITORY / "configs" / "table7" / "fine.py"
FINE_COCO = REPOSITORY / "configs" / "table7" / "fine_coco.py"
SHORT = ("train.max_iter=2", "train.draw=0", "model.roi_heads.box_predictor.test_topk_per_image=10")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stage-wise run of two iterations."""
    folder = tmp_path_factory.mktemp("streets")
    keys = [*SHORT, f"train.output_dir={folder / 'run'}", "train.draw=2"]
    launch(folder, *keys, config=FINE).succeeded()
    return folder / "run"


def test_a_run_ends_in_the_official_numbers(trained: Path) -> None:
    record = load_record(trained / "record.json")
    assert set(record.metrics) == {"segm"}
    assert set(record.metrics["segm"].values()) == {"AP", "AP50"}
    assert list(record.metrics["segm"].per_class) == (
        ["person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"]
    )
    assert record.evaluator_backend == "cityscapesscripts"
    assert record.test_data is not None and record.test_data.images == 6
    assert record.proposals is not None and record.proposals.id == "rpn/r50_fpn_cityscapes"
    assert len(list((trained / "drawings").glob("*.png"))) == 2
    found = results(trained, "embedded_tiny_cityscapes_val")
    assert {d["category_id"] for d in found["segm_results"]} <= {24, 25, 26, 27, 28, 31, 32, 33}


def test_the_test_split_gives_the_servers_format(trained: Path, tmp_path: Path) -> None:
    keys = [
        *SHORT,
        "dataloader.test.dataset.names=embedded_tiny_cityscapes_test",
        f"train.output_root={trained.parent / 'output'}",
        f"train.init_checkpoint={trained / 'model_final.pth'}",
        "model.roi_heads.box_predictor.test_score_thresh=0.001",
        f"train.output_dir={tmp_path / 'run'}",
    ]
    launch(tmp_path, *keys, "--eval-only", config=FINE).succeeded()
    assert load_record(tmp_path / "run" / "record.json").metrics == {}
    upload = tmp_path / "run" / "inference" / "embedded_tiny_cityscapes_test" / "upload"
    texts = sorted(upload.rglob("*.txt"))
    assert len(texts) == 4
    lines = [line.split() for text in texts for line in text.read_text().splitlines()]
    assert lines
    for file, label, score in lines:
        mask = cv2.imread(str(upload / file), cv2.IMREAD_UNCHANGED)
        assert mask.shape == (96, 192) and mask.any()
        assert int(label) in {24, 25, 26, 27, 28, 31, 32, 33}
        assert 0 <= float(score) <= 1


@pytest.mark.slow
def test_masks_from_polygons_by_config(trained: Path, tmp_path: Path) -> None:
    """Another source of the masks is another config, with proposals of the same stage."""
    run = tmp_path / "run"
    keys = [*SHORT, "dataloader.train.dataset.masks=polygons", f"train.output_dir={run}"]
    keys.append(f"train.output_root={trained.parent / 'output'}")
    launch(tmp_path, *keys, config=FINE).succeeded()
    hashes = [load_record(folder / "record.json").config.hash for folder in (trained, run)]
    assert hashes[0] != hashes[1]
    message = launch(
        tmp_path, "dataloader.train.dataset.masks=outlines", config=FINE
    ).failed_plainly()
    assert "outlines" in message and "instance_ids" in message and "polygons" in message


@pytest.mark.slow
def test_fine_tuning_from_another_data_set(trained: Path, tmp_path: Path) -> None:
    root = trained.parent / "output"
    run = tmp_path / "run"
    keys = [*SHORT, f"train.output_root={root}", f"train.output_dir={run}"]
    launch(tmp_path, *keys, config=FINE_COCO).succeeded()
    assert "from the weights: person; random: rider, car" in (run / "log.txt").read_text()
    record = load_record(run / "record.json")
    assert record.init_from is not None and record.init_from.id == "table2a/r50_fpn"
    source = next((root / "table2a").glob("r50_fpn@tiny/*/model_final.pth"))
    shape = load(source)["model"]["roi_heads.box_predictor.cls_score.weight"].shape[0]
    assert shape == 7 + 1
    # the same from that file as any other checkpoint
    keys = [*SHORT, f"train.output_root={root}", f"train.output_dir={tmp_path / 'file'}"]
    keys += ["train.init_from=null", f"train.init_checkpoint={source}"]
    message = launch(tmp_path, *keys, config=FINE_COCO).failed_plainly()
    assert "train.init_classes_of" in message
    keys.append("train.init_classes_of=embedded_tiny_train")
    launch(tmp_path, *keys, config=FINE_COCO).succeeded()
    first, second = (load(f / "model_final.pth")["model"] for f in (run, tmp_path / "file"))
    assert all(first[key].equal(second[key]) for key in first)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("{driver: person}", ["'driver'", "rider"]),
        ("{rider: cyclist}", ["'cyclist'", "mug"]),
    ],
)
def test_class_names_that_are_none_are_told_before_training(
    value: str, words: list[str], tmp_path: Path
) -> None:
    keys = [f"train.init_classes={value}", f"train.output_dir={tmp_path / 'run'}"]
    message = launch(tmp_path, *keys, config=FINE_COCO).failed_plainly()
    for word in words:
        assert word in message
    assert not (tmp_path / "output").exists()


def test_real_data_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "nowhere"))
    keys = ["dataloader.train.dataset.names=cityscapes_train", "train.proposals=null"]
    keys += ["dataloader.test.dataset.names=cityscapes_val", f"train.output_dir={tmp_path / 'r'}"]
    message = launch(tmp_path, *keys, config=FINE).failed_plainly()
    assert "leftImg8bit" in message and "DETECTRON2_DATASETS" in message
    assert json.dumps(str(tmp_path / "nowhere"))[1:-1] in message
