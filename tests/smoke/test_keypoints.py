"""Human pose and other skeletons through the command line: real COCO, keypoints of one's own."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from mask_rcnn_embedded import quickstart as embedded
from mask_rcnn_repro.config import load_config
from mask_rcnn_repro.records.record import load_record

from .run_helpers import REPOSITORY, launch, load, results

SAMPLE = REPOSITORY.parent / "shared" / "data"
KEYPOINT_ONLY = REPOSITORY / "configs" / "table5" / "keypoint_only.py"
KEYPOINT_AND_MASK = REPOSITORY / "configs" / "table5" / "keypoint_and_mask.py"
TRAIN, TEST = "dataloader.train.dataset", "dataloader.test.dataset"

# A skeleton of five points in another order than COCO's: index in COCO's 17, new name.
FIVE = {15: "foot_left", 9: "hand_left", 0: "head", 16: "foot_right", 10: "hand_right"}
LINES = [[1, 2], [2, 3], [3, 5], [5, 4]]
SIGMAS = "[0.09, 0.06, 0.03, 0.09, 0.06]"


def five_points(person: list[float]) -> list[float]:
    return [value for index in FIVE for value in person[3 * index : 3 * index + 3]]


def write_own_data(folder: Path, names: list[str]) -> list[str]:
    """Writes the embedded persons with five keypoints; returns overrides."""
    source = embedded.ensure_generated(embedded.TINY_SPEC)
    keys = []
    for key, split in ((TRAIN, "train"), (TEST, "val")):
        file = source / "annotations" / f"person_keypoints_{split}.json"
        content: dict[str, Any] = json.loads(file.read_text())
        for annotation in content["annotations"]:
            annotation["keypoints"] = five_points(annotation["keypoints"])
            annotation["num_keypoints"] = sum(v > 0 for v in annotation["keypoints"][2::3])
        content["categories"] = [
            {"id": 4, "name": "acrobat", "keypoints": names, "skeleton": LINES}
        ]
        for annotation in content["annotations"]:
            annotation["category_id"] = 4
        (folder / f"{split}.json").write_text(json.dumps(content))
        keys += [
            f"{key}.names={folder.name}_{split}",
            f"{key}.json={folder / f'{split}.json'}",
            f"{key}.image_root={source / split}",
        ]
    return keys


@pytest.fixture(scope="module")
def own_data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_own_data(tmp_path_factory.mktemp("acrobats"), list(FIVE.values()))


def test_a_skeleton_of_ones_own_by_config_alone(own_data: list[str], tmp_path: Path) -> None:
    """Stage-wise: the RPN stage is trained on the same data."""
    run = tmp_path / "run"
    keys = [*own_data, f"{TEST}.oks_sigmas={SIGMAS}", f"train.output_dir={run}", "train.draw=2"]
    keys += ["train.max_iter=2", "model.roi_heads.box_predictor.test_topk_per_image=10"]
    out = launch(tmp_path, *keys, config=KEYPOINT_AND_MASK).succeeded()
    assert "num_keypoints: 17 -> 5" in out
    assert "foot_left and foot_right, hand_left and hand_right" in out

    cfg = load_config(run / "config.yaml")
    assert cfg.model.roi_heads.keypoint_head.num_keypoints == 5
    assert list(cfg.dataloader.train.mapper.keypoint_hflip_indices) == [3, 4, 2, 0, 1]
    model = load(run / "model_final.pth")["model"]
    assert model["roi_heads.keypoint_head.score_lowres.weight"].shape[1] == 5
    record = load_record(run / "record.json")
    assert set(record.metrics) == {"bbox", "segm", "keypoints"}
    assert set(record.metrics["keypoints"].per_class) == {"acrobat"}
    found = results(run, next(k for k in own_data if k.startswith(f"{TEST}.names")).split("=")[1])
    assert all(len(d["keypoints"]) == 15 for d in found["keypoints_results"])
    assert {d["category_id"] for d in found["keypoints_results"]} == {4}
    assert len(list((run / "drawings").glob("*.png"))) == 2
    (stage,) = (tmp_path / "output" / "rpn").glob("r50_fpn_person@tiny/*")
    assert load_config(stage / "config.yaml").dataloader.train.dataset.json in own_data[1]


def test_what_is_missing_or_does_not_fit_is_told_before_training(
    own_data: list[str], tmp_path: Path
) -> None:
    wrong = [
        ([], ["oks_sigmas", "5 keypoints", "foot_left"]),
        ([f"{TEST}.oks_sigmas=[0.1, 0.2]"], ["oks_sigmas has 2 values", "5 keypoints"]),
        ([f"{TEST}.oks_sigmas=[0.1, 0.2, 0.1, 0, 0.1]"], ["positive numbers", "got [0]"]),
        (
            [f"{TEST}.oks_sigmas={SIGMAS}", f"{TRAIN}.flip_pairs=[[foot_left, paw]]"],
            ["flip_pairs names 'paw'", "foot_left, hand_left, head"],
        ),
        (
            [
                f"{TEST}.oks_sigmas={SIGMAS}",
                "dataloader.train.mapper.keypoint_hflip_indices=[1, 2, 0, 3, 4]",
            ],
            ["keypoint_hflip_indices is [1, 2, 0, 3, 4]", "[3, 4, 2, 0, 1]"],
        ),
        (
            [f"{TEST}.oks_sigmas={SIGMAS}", "model.roi_heads.keypoint_head.num_keypoints=17"],
            ["num_keypoints is 17", "num_keypoints=5"],
        ),
    ]
    for number, (keys, words) in enumerate(wrong):
        # names of their own: what was said about a data set stays with its name
        renamed = [f"{key}_{number}" if ".names=" in key else key for key in own_data]
        message = launch(tmp_path, *renamed, *keys, config=KEYPOINT_ONLY).failed_plainly()
        for word in words:
            assert word in message, message
    assert list(tmp_path.iterdir()) == []


def test_names_that_say_left_without_a_partner_are_refused(tmp_path: Path) -> None:
    names = ["foot_left", "hand_left", "head", "other_foot", "hand_right"]
    folder = tmp_path / "one_sided"
    folder.mkdir()
    keys = [*write_own_data(folder, names), f"{TEST}.oks_sigmas={SIGMAS}"]
    message = launch(tmp_path, *keys, config=KEYPOINT_ONLY).failed_plainly()
    assert "foot_left" in message and "dataset.flip_pairs" in message
    pairs = f"{TRAIN}.flip_pairs=[[foot_left, other_foot], [hand_left, hand_right]]"
    run = tmp_path / "run"
    more = [pairs, "train.proposals=null", "train.max_iter=1", f"train.output_dir={run}"]
    launch(tmp_path, *keys, *more, "train.draw=0", config=KEYPOINT_ONLY).succeeded()
    cfg = load_config(run / "config.yaml")
    assert list(cfg.dataloader.train.mapper.keypoint_hflip_indices) == [3, 4, 2, 0, 1]


def test_test_data_with_other_keypoints_is_refused(own_data: list[str], tmp_path: Path) -> None:
    keys = [key for key in own_data if key.startswith(TRAIN)]
    classes = [f"{TEST}.{name}" for name in ("names=embedded_tiny_person_val",)]
    message = launch(tmp_path, *keys, *classes, config=KEYPOINT_ONLY).failed_plainly()
    assert "acrobat" in message  # the class differs as well, and is told first


@pytest.mark.slow
@pytest.mark.skipif(
    not (SAMPLE / "coco").is_dir(), reason="no COCO sample at ../shared/data beside the checkout"
)
def test_keypoints_of_real_coco(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", os.fspath(SAMPLE))
    run = tmp_path / "run"
    keys = [f"{TRAIN}.names=keypoints_coco_trainval35k", f"{TEST}.names=keypoints_coco_minival"]
    keys += ["train.draw=2", f"train.output_dir={run}", "train.max_iter=2"]
    keys += ["model.roi_heads.box_predictor.test_topk_per_image=10"]
    launch(tmp_path, *keys, config=KEYPOINT_AND_MASK).succeeded()
    record = load_record(run / "record.json")
    assert set(record.metrics) == {"bbox", "segm", "keypoints"}
    # 22 images of the val sample, 18 of them in the keypoint file; 41 of 60 for training, of which
    # those with labelled keypoints are used
    assert record.test_data is not None and record.test_data.images == 18
    assert record.train_data is not None
    found = results(run, "keypoints_coco_minival")
    assert all(len(d["keypoints"]) == 51 for d in found["keypoints_results"])
    assert len(list((run / "drawings").glob("*.png"))) == 2
