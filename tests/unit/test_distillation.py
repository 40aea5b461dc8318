"""Threshold, predictions on disk and the annotations made of them; a detector without a net."""

from __future__ import annotations

import json

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.structures import Boxes, Instances
from hypothesis import given
from hypothesis import strategies as st
from pycocotools.coco import COCO
from torch import nn

from mask_rcnn_repro.data import get_test_dicts
from mask_rcnn_repro.data.coco.load import load_coco_json
from mask_rcnn_repro.data.generated.annotations import default_unlabeled
from mask_rcnn_repro.distillation import predict
from mask_rcnn_repro.distillation.annotation_file import (
    annotation,
    labeled_categories,
    write_generated,
)
from mask_rcnn_repro.distillation.predict import detections_of, predict_missing
from mask_rcnn_repro.distillation.predictions import PredictionStore, StalePredictionsError
from mask_rcnn_repro.distillation.threshold import choose_threshold, labeled_average
from mask_rcnn_repro.errors import ConfigError, DataError
from mask_rcnn_tools.distill.cli import parse_args

UNLABELED = "embedded_tiny_person_unlabeled"


@pytest.mark.parametrize(
    ("wanted", "score", "kept"),
    [
        (0.5, 0.9, 1),
        (1, 0.9, 1),  # 1 and 3 are equally near to 2: the smaller
        (1.5, 0.8, 3),  # equal scores stay together
        (2, 0.5, 4),
        (2.4, 0.3, 5),
        (9, 0.3, 5),
        (0, 0.9, 1),  # at least one stays
    ],
)
def test_the_threshold_by_hand(wanted, score, kept):
    chosen = choose_threshold([0.5, 0.8, 0.3, 0.9, 0.8], images=2, wanted=wanted)
    assert (chosen.score, chosen.kept, chosen.per_image) == (score, kept, kept / 2)
    assert chosen.short_of_predictions == (wanted == 9)


def test_no_prediction_at_all():
    chosen = choose_threshold([], images=3, wanted=2)
    assert (chosen.kept, chosen.score) == (0, float("inf"))
    assert chosen.short_of_predictions


@given(st.lists(st.integers(1, 20), min_size=1, max_size=60), st.integers(1, 20), st.floats(0, 8))
def test_no_other_threshold_comes_nearer(tenths, images, wanted):
    scores = [t / 20 for t in tenths]
    chosen = choose_threshold(scores, images, wanted)
    kept = {t: sum(s >= t for s in scores) for t in scores}
    assert kept[chosen.score] == chosen.kept
    best = min(abs(k - wanted * images) for k in kept.values())
    assert abs(chosen.kept - wanted * images) == best


def test_what_is_counted_in_the_labeled_set():
    seen, hidden, unlabelled = [1, 1, 2], [1, 1, 1], [0, 0, 0]
    dicts = [
        {"annotations": [{"keypoints": seen + unlabelled}, {"keypoints": unlabelled * 2}, {}]},
        {
            "annotations": [
                {"keypoints": seen * 2, "iscrowd": 1},
                {"keypoints": unlabelled + hidden},
            ]
        },
        {"annotations": []},
        {},
    ]
    both = [labeled_average(dicts, with_keypoints=k) for k in (False, True)]
    assert [(b.images, b.instances, b.per_image) for b in both] == [(4, 4, 1.0), (4, 2, 0.5)]


class Detector(nn.Module):
    """Finds in each image what follows from its pixels: boxes, masks and keypoints."""

    def __init__(self, fails_at=None):
        super().__init__()
        self.seen = []
        self.fails_at = fails_at

    def inference(self, inputs, do_postprocess):
        assert not do_postprocess and len(inputs) == 1
        if len(self.seen) == self.fails_at:
            raise KeyboardInterrupt
        self.seen.append(inputs[0]["image_id"])
        image = inputs[0]["image"]
        rng = np.random.RandomState(int(image.sum()) % 2**31)
        count = rng.randint(0, 4)
        found = Instances(tuple(image.shape[1:]))
        corner = torch.as_tensor(rng.uniform(2, 20, (count, 2)))
        size = torch.as_tensor(rng.uniform(5, 30, (count, 2)))
        found.pred_boxes = Boxes(torch.cat([corner, corner + size], 1).float())
        found.scores = torch.as_tensor(rng.uniform(0.05, 1, count)).float()
        found.pred_classes = torch.zeros(count, dtype=torch.int64)
        found.pred_masks = torch.as_tensor(rng.uniform(0.3, 1, (count, 1, 7, 7))).float()
        places = corner[:, None] + size[:, None] * torch.as_tensor(
            rng.uniform(0, 1, (count, 17, 2))
        )
        scores = torch.as_tensor(rng.uniform(0, 1, (count, 17, 1)))
        found.pred_keypoints = torch.cat([places, scores], 2).float()
        return [found]


def mapper(record):
    from mask_rcnn_repro.data.loading.images import read_image

    image = torch.as_tensor(read_image(record, "BGR").copy()).permute(2, 0, 1)
    return {**record, "image": image}


def store_in(folder, records, **options):
    store = PredictionStore(folder, [r["image_id"] for r in records], **options)
    store.claim({"weights": "a"})
    return store


def content_of(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.fixture(scope="module")
def records():
    return get_test_dicts(UNLABELED)


@pytest.fixture(scope="module")
def complete(records, tmp_path_factory):
    """Predictions made in one go: four files of two images."""
    store = store_in(tmp_path_factory.mktemp("complete"), records, images_per_file=2)
    predict_missing(store, records, Detector, mapper)
    assert store.missing() == []
    assert sum(len(d) for _, d in store.read()) >= 8, "too little to compare"
    return store


@pytest.mark.parametrize("stop", [0, 1, 5, 7])
def test_a_killed_run_goes_on(records, complete, tmp_path, stop):
    store = store_in(tmp_path / "p", records, images_per_file=2)
    with pytest.raises(KeyboardInterrupt):
        predict_missing(store, records, lambda: Detector(fails_at=stop), mapper)
    assert len(store.missing()) == 4 - stop // 2
    (tmp_path / "p" / ".000003.jsonl.0123456789abcdef.partial").write_text("{")
    again = Detector()
    store = store_in(tmp_path / "p", records, images_per_file=2)
    predict_missing(store, records, lambda: again, mapper)
    assert again.seen == store.image_ids[stop // 2 * 2 :], "nothing is predicted twice"
    assert content_of(store.folder) == content_of(complete.folder)


@pytest.mark.parametrize("processes", [2, 3, 7])
def test_any_number_of_processes_makes_the_same(
    records, complete, tmp_path, monkeypatch, processes
):
    store = store_in(tmp_path / "p", records, images_per_file=2)
    # all processes see what was missing when the first one looked
    missing, seen = store.missing(), []
    monkeypatch.setattr(predict.comm, "get_world_size", lambda: processes)
    monkeypatch.setattr(predict.comm, "all_gather", lambda own: [missing] * processes)
    monkeypatch.setattr(predict.comm, "synchronize", lambda: None)
    for rank in range(processes):
        monkeypatch.setattr(predict.comm, "get_rank", lambda rank=rank: rank)
        model = Detector()
        predict_missing(store, records, lambda model=model: model, mapper)
        seen.append(model.seen)
    assert content_of(store.folder) == content_of(complete.folder)
    assert sorted(i for images in seen for i in images) == sorted(store.image_ids)
    assert [bool(images) for images in seen] == [rank < 4 for rank in range(processes)]


def test_what_is_complete_needs_no_model(records, complete):
    predict_missing(complete, records, lambda: pytest.fail("built"), mapper)


def test_a_folder_of_other_settings_is_refused(records, tmp_path):
    store = store_in(tmp_path / "p", records, images_per_file=2)
    store.claim({"weights": "b"})  # nothing is in it yet
    store.write(0, [[], []])
    store.claim({"weights": "b"})
    with pytest.raises(ConfigError, match=r"weights: b there, a now\n.*--output") as error:
        store.claim({"weights": "a"})
    assert isinstance(error.value, StalePredictionsError)
    assert error.value.differences == "  weights: b there, a now"
    other = PredictionStore(store.folder, store.image_ids, images_per_file=3)
    with pytest.raises(ConfigError, match="images_per_file: 2 there, 3 now"):
        other.claim({"weights": "b"})


@pytest.mark.parametrize("text", ["", '{"image_id":1,"detections":[]}\n', "{", "[]\n[]\n"])
def test_damaged_predictions_are_named(records, complete, tmp_path, text):
    store = store_in(tmp_path / "p", records, images_per_file=2)
    for number in range(4):
        store.file(number).write_bytes(complete.file(number).read_bytes())
    store.file(2).write_text(text)
    with pytest.raises(DataError, match=r"000002\.jsonl .* Delete"):
        list(store.read())


def test_predictions_are_compact_and_of_use():
    found = Instances((50, 100))
    found.pred_boxes = Boxes(torch.tensor([[1.0, 2, 11, 22], [3, 3, 9, 9], [5, 5, 5.001, 9]]))
    found.scores = torch.tensor([0.123456789, 0.9, 0.8])
    found.pred_classes = torch.tensor([2, 1, 0])
    found.pred_masks = torch.tensor([1.0, 0.1, 1.0])[:, None, None, None].expand(3, 1, 4, 4)
    (made,) = detections_of(found, {"image_id": 7, "height": 100, "width": 200})
    assert made["bbox"] == [2, 4, 20, 40], "in the original image's frame"
    assert (made["score"], made["category_id"]) == (0.123457, 2)
    assert mask_util.toBbox(made["segmentation"]).tolist() == [2, 4, 20, 40]
    assert json.loads(json.dumps(made)) == made


def test_an_annotation_by_hand():
    mask = np.zeros((10, 12), np.uint8, order="F")
    mask[2:5, 3:9] = 1
    rle = mask_util.encode(mask)
    detection = {
        "category_id": 1,
        "bbox": [3, 2, 6, 3.5],
        "score": 0.75,
        "segmentation": {"size": [10, 12], "counts": rle["counts"].decode()},
        "keypoints": [3.5, 2.25, 0.9, 4, 3, 0.1],
    }
    categories = [{"id": 5, "name": "a"}, {"id": 9, "name": "b"}]
    made = annotation(detection, 77, 3, categories)
    assert made == {
        "id": 3,
        "image_id": 77,
        "category_id": 9,
        "bbox": [3, 2, 6, 3.5],
        "area": 18.0,
        "iscrowd": 0,
        "score": 0.75,
        "segmentation": detection["segmentation"],
        "keypoints": [3.5, 2.25, 2, 4, 3, 2],
        "num_keypoints": 2,
    }
    certain = annotation(detection, 77, 3, categories, min_keypoint_score=0.5)
    assert certain["keypoints"] == [3.5, 2.25, 2, 0, 0, 0]
    assert certain["num_keypoints"] == 1
    del detection["segmentation"]
    assert annotation(detection, 77, 3, categories)["area"] == 21.0


def test_the_annotations_load_everywhere(records, complete, tmp_path):
    from mask_rcnn_repro.data.registration import coco_parts

    root = coco_parts(UNLABELED)[0].image_root
    categories = labeled_categories("embedded_tiny_person_train")
    assert [c["name"] for c in categories] == ["person"]
    file, threshold = tmp_path / "generated.json", 0.4
    info = {"description": "categories in quotes are none: categories"}
    write_generated(file, complete, records, root, categories, info, score=threshold)
    predicted = {i: [d for d in ds if d["score"] >= threshold] for i, ds in complete.read()}
    assert 0 < sum(map(len, predicted.values())) < sum(len(d) for _, d in complete.read())

    data = load_coco_json(file, root, ["person"])
    assert data.categories.keypoint_names == tuple(categories[0]["keypoints"])
    assert [d["file_name"] for d in data.dicts] == [r["file_name"] for r in records]
    for record in data.dicts:
        detections = predicted[record["image_id"]]
        assert len(record["annotations"]) == len(detections)
        for found, detection in zip(record["annotations"], detections, strict=True):
            assert found["bbox"] == detection["bbox"]
            # read as pixel centres, which results are half a pixel before
            expected = [v + 0.5 for v in detection["keypoints"]]
            assert found["keypoints"][0::3] == expected[0::3]
            assert found["keypoints"][1::3] == expected[1::3]
            assert set(found["keypoints"][2::3]) == {2}
            assert found["segmentation"]["counts"] == detection["segmentation"]["counts"]

    coco = COCO(str(file))
    assert len(coco.getImgIds()) == len(records)
    for identity in coco.getAnnIds():
        ann = coco.loadAnns([identity])[0]
        assert coco.annToMask(ann).sum() == ann["area"] > 0


def test_nothing_above_the_threshold_is_a_valid_file(records, complete, tmp_path):
    file = tmp_path / "g.json"
    categories = labeled_categories("embedded_tiny_person_train")
    write_generated(file, complete, records, "/", categories, {}, score=float("inf"))
    assert json.loads(file.read_text())["annotations"] == []


@pytest.mark.parametrize(
    ("labeled", "unlabeled"),
    [
        ("embedded_train", "embedded_unlabeled"),
        ("embedded_tiny_person_train", "embedded_tiny_person_unlabeled"),
        ("coco_trainval35k", "coco_2017_unlabeled"),
        ("keypoints_coco_trainval35k", "coco_2017_unlabeled"),
    ],
)
def test_which_images_belong_to_a_labeled_set(labeled, unlabeled):
    assert default_unlabeled(labeled) == unlabeled


@pytest.mark.parametrize("labeled", ["cityscapes_train", "mine", "embedded_cityscapes_train"])
def test_of_other_sets_they_must_be_named(labeled):
    with pytest.raises(ConfigError, match=rf"{labeled}.*--unlabeled.*dataset\.unlabeled"):
        default_unlabeled(labeled)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--processes", "0"], "must be at least 1"),
        (["--instances-per-image", "0"], "must be above 0"),
        (["--unlabeled-json", "a.json"], "need --unlabeled NAME"),
        (["train.max_iter"], "is not key=value"),
        (["--outptu", "x"], "--outptu"),
    ],
)
def test_mistakes_on_the_command_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_args(["--config-file", "x", *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
