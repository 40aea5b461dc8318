"""Data sets by name: files looked for, custom data sets, classes, filters, fingerprints."""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import subprocess
import sys
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from mask_rcnn_repro.data import (
    dataset_fingerprint,
    dataset_info,
    get_test_dicts,
    get_training_dicts,
    register_all_datasets,
)
from mask_rcnn_repro.data.keypoint_metadata import COCO_PERSON_SIGMAS
from mask_rcnn_repro.errors import ConfigError, DataError

from .data_helpers import HEIGHT, WIDTH, annotation, content, write

COCO = [{"id": c["id"], "name": c["name"]} for c in COCO_CATEGORIES if c["isthing"]]


@pytest.fixture
def name() -> str:
    return f"mine_{uuid.uuid4().hex}"


def _coco_file(root: Path, json_name: str, folder: str, image_id: int, **more: Any) -> None:
    """One image with one annotation below a COCO root."""
    (root / "coco" / folder).mkdir(parents=True, exist_ok=True)
    (root / "coco" / "annotations").mkdir(exist_ok=True)
    (root / "coco" / folder / f"{image_id}.jpg").touch()
    image = {"id": image_id, "file_name": f"{image_id}.jpg", "height": HEIGHT, "width": WIDTH}
    data = {
        "images": [image],
        "categories": COCO,
        "annotations": [annotation(image_id, image_id, category_id=90)],
        **more,
    }
    data = {key: value for key, value in data.items() if value is not None}
    (root / "coco" / "annotations" / f"{json_name}.json").write_text(json.dumps(data))


def _files_2014(root: Path) -> None:
    _coco_file(root, "instances_train2014", "train2014", 1)
    _coco_file(root, "instances_valminusminival2014", "val2014", 2)
    _coco_file(root, "instances_minival2014", "val2014", 3)


def test_registering_twice_opens_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "nowhere"))
    register_all_datasets()
    register_all_datasets()
    for each in ("coco_trainval35k", "coco_2017_unlabeled", "keypoints_coco_minival"):
        assert each in DatasetCatalog
    assert MetadataCatalog.get("coco_minival").evaluator_type == "coco"
    assert dataset_info("coco_trainval35k") == [c["name"] for c in COCO]


def test_paper_splits_from_2014_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    _files_2014(tmp_path)
    dicts = get_training_dicts("coco_trainval35k")
    assert [d["file_name"] for d in dicts] == [
        f"{tmp_path}/coco/train2014/1.jpg",
        f"{tmp_path}/coco/val2014/2.jpg",
    ]
    assert dicts[0]["annotations"][0]["category_id"] == 79
    metadata = MetadataCatalog.get("coco_trainval35k")
    # Two files: there is no single json that an evaluator could take for the whole.
    assert metadata.get("json_file") is None
    assert [Path(file).name for file in metadata.json_files] == [
        "instances_train2014.json",
        "instances_valminusminival2014.json",
    ]
    assert MetadataCatalog.get("coco_minival").json_file.endswith("instances_minival2014.json")


def test_2017_files_are_preferred_and_announced(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    _files_2014(tmp_path)
    _coco_file(tmp_path, "instances_train2017", "train2017", 7)
    with caplog.at_level(logging.INFO):
        dicts = get_training_dicts("coco_trainval35k")
    assert [d["image_id"] for d in dicts] == [7]
    assert "COCO 2017 files" in caplog.text and "preferred to the COCO 2014 files" in caplog.text


@pytest.mark.parametrize("split", ["trainval35k", "minival", "test_dev"])
def test_missing_coco_names_every_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, split: str
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    with pytest.raises(DataError) as info:
        get_test_dicts(f"coco_{split}")
    wanted = {
        "trainval35k": ["instances_train2014", "instances_valminusminival2014", "train2017"],
        "minival": ["instances_minival2014", "instances_val2017", "val2014", "val2017"],
        "test_dev": ["image_info_test-dev2017", "image_info_test-dev2015", "test2017", "test2015"],
    }[split]
    for part in wanted:
        assert part in str(info.value)
    assert f"DETECTRON2_DATASETS={tmp_path}" in str(info.value)


def test_annotations_without_image_folder_do_not_count(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    _files_2014(tmp_path)
    _coco_file(tmp_path, "instances_val2017", "val2017", 7)
    (tmp_path / "coco" / "val2017" / "7.jpg").unlink()
    (tmp_path / "coco" / "val2017").rmdir()
    assert [d["image_id"] for d in get_test_dicts("coco_minival")] == [3]


def test_keypoints_test_dev_has_person_metadata(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    _coco_file(tmp_path, "image_info_test-dev2017", "test2017", 5, annotations=None)
    assert get_test_dicts("keypoints_coco_test_dev")[0]["annotations"] == []
    metadata = MetadataCatalog.get("keypoints_coco_test_dev")
    assert metadata.evaluator_type == "coco_person"
    assert metadata.thing_classes == ["person"]
    assert len(metadata.keypoint_names) == 17 == len(metadata.keypoint_oks_sigmas)
    with pytest.raises(DataError, match="not a single usable annotation"):
        get_training_dicts("keypoints_coco_test_dev")


def test_sigmas_are_those_of_pycocotools() -> None:
    from pycocotools.cocoeval import Params

    assert list(COCO_PERSON_SIGMAS) == pytest.approx(Params("keypoints").kpt_oks_sigmas.tolist())


def test_other_classes_under_a_coco_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    categories = [{"id": 90, "name": "cog"}]
    _coco_file(tmp_path, "instances_val2017", "val2017", 7, categories=categories)
    with pytest.raises(DataError, match="1 classes"):
        get_test_dicts("coco_minival")
    categories = [{"id": i + 1, "name": c["name"]} for i, c in enumerate(COCO)]
    shifted = [annotation(7, 7, category_id=1)]
    _coco_file(
        tmp_path, "instances_val2017", "val2017", 7, categories=categories, annotations=shifted
    )
    with pytest.raises(DataError, match="numbers its categories"):
        get_test_dicts("coco_minival")


def test_custom_data_set_by_keys_alone(name: str, tmp_path: Path) -> None:
    json_file, root = write(tmp_path, content())
    assert dataset_info(name, json_file, root) == ["mug", "cog"]
    dicts = get_training_dicts(name, json=json_file, image_root=root)
    assert [a["category_id"] for d in dicts for a in d["annotations"]] == [1, 1, 1]
    metadata = MetadataCatalog.get(name)
    assert metadata.evaluator_type == "coco"
    assert metadata.thing_classes == ["mug", "cog"]
    assert metadata.thing_dataset_id_to_contiguous_id == {3: 0, 7: 1}
    assert (metadata.json_file, metadata.image_root) == (json_file, root)
    # From then on the name alone is enough, and repeating the keys does no harm.
    assert get_test_dicts(name) == get_test_dicts([name], json_file, root) == dicts


def test_custom_data_set_errors(name: str, tmp_path: Path) -> None:
    json_file, root = write(tmp_path, content())
    with pytest.raises(ConfigError, match="image_root=None"):
        get_training_dicts(name, json=json_file)
    with pytest.raises(ConfigError, match="one name"):
        get_training_dicts([name, "other"], json=json_file, image_root=root)
    with pytest.raises(ConfigError, match="already stands for another data set"):
        get_training_dicts("coco_minival", json=json_file, image_root=root)
    with pytest.raises(ConfigError, match="is empty"):
        get_training_dicts([])
    get_training_dicts(name, json=json_file, image_root=root)
    with pytest.raises(ConfigError, match="already stands for the files"):
        get_training_dicts(name, json=json_file, image_root=str(tmp_path))


def test_custom_keypoints_bring_their_metadata(name: str, tmp_path: Path) -> None:
    data = content(1)
    data["categories"] = [
        {
            "id": 7,
            "name": "cat",
            "keypoints": ["left_ear", "right_ear", "nose"],
            "skeleton": [[1, 3], [3, 2]],
        }
    ]
    data["annotations"][0]["keypoints"] = [1, 2, 2, 3, 4, 1, 0, 0, 0]
    json_file, root = write(tmp_path, data)
    dicts = get_training_dicts(name, json=json_file, image_root=root)
    keypoints = dicts[0]["annotations"][0]["keypoints"]
    assert keypoints == [1.5, 2.5, 2, 3.5, 4.5, 1, 0.5, 0.5, 0]
    metadata = MetadataCatalog.get(name)
    assert metadata.keypoint_names == ("left_ear", "right_ear", "nose")
    assert metadata.keypoint_flip_map == (("left_ear", "right_ear"),)
    assert [rule[:2] for rule in metadata.keypoint_connection_rules] == [
        ("left_ear", "nose"),
        ("nose", "right_ear"),
    ]


def test_unknown_name_suggests() -> None:
    with pytest.raises(DataError, match="Did you mean coco_minival"):
        get_test_dicts("coco_minivall")


def test_data_sets_of_detectron2_are_read_with_our_checks(name: str, tmp_path: Path) -> None:
    json_file, root = write(tmp_path, content())
    register_coco_instances(name, {}, json_file, root)
    assert dataset_info(name) == ["mug", "cog"]
    Path(json_file).write_text("{")
    with pytest.raises(DataError, match="not valid json"):
        get_test_dicts(name)


def test_data_sets_of_other_formats_are_read_by_their_own_function(name: str) -> None:
    record = {"file_name": "a.jpg", "height": 2, "width": 3, "image_id": 1, "annotations": []}
    DatasetCatalog.register(name, lambda: [record])
    assert get_test_dicts(name) == [record]
    assert dataset_info(name) is None
    with pytest.raises(DataError, match="not a single usable annotation"):
        get_training_dicts(name)
    assert dataset_fingerprint(name)["num_images"] == 1


def test_several_data_sets(tmp_path: Path) -> None:
    names = [f"mine_{uuid.uuid4().hex}" for _ in range(3)]
    other = content(1)
    other["categories"][0]["name"] = "wheel"
    for each, data in zip(names, (content(2), content(1), other), strict=True):
        get_test_dicts(each, *write(tmp_path / each, data))
    assert [d["image_id"] for d in get_training_dicts(names[:2])] == [10, 20, 10]
    with pytest.raises(DataError, match="different classes"):
        get_training_dicts(names)


def test_filters(name: str, tmp_path: Path) -> None:
    data = content(4)
    data["annotations"][0]["iscrowd"] = 1  # image 10: a crowd alone
    del data["annotations"][1]  # image 20: nothing; 30 and 40 keep one each
    data["annotations"][1]["keypoints"] = [1, 1, 2, 2, 2, 0]
    data["annotations"][2]["keypoints"] = [1, 1, 2, 2, 2, 1]
    keys = write(tmp_path, data)
    assert [d["image_id"] for d in get_training_dicts(name, *keys)] == [30, 40]
    everything = get_training_dicts(name, *keys, filter_empty=False)
    assert [d["image_id"] for d in everything] == [10, 20, 30, 40]
    assert [d["image_id"] for d in get_training_dicts(name, min_keypoints=2)] == [40]
    assert len(get_test_dicts(name)) == 4
    with pytest.raises(DataError, match="at least 3 visible keypoints"):
        get_training_dicts(name, min_keypoints=3)


def test_zero_annotations(name: str, tmp_path: Path) -> None:
    data = content()
    data["annotations"] = []
    with pytest.raises(DataError, match=r"3 images .*usable annotation"):
        get_training_dicts(name, *write(tmp_path, data))


def test_fingerprint(tmp_path: Path) -> None:
    names = [f"mine_{uuid.uuid4().hex}" for _ in range(2)]
    paths = [write(tmp_path / each, content(2)) for each in names]
    first, second = (dataset_fingerprint(n, *p) for n, p in zip(names, paths, strict=True))
    file_digest = hashlib.sha256(Path(paths[0][0]).read_bytes()).digest()
    assert first["sha256"] == hashlib.sha256(file_digest).hexdigest() == second["sha256"]
    assert (first["num_images"], first["num_instances"]) == (2, 2)
    both = dataset_fingerprint(names)
    assert (both["num_images"], both["num_instances"]) == (4, 4)
    assert both["sha256"] != first["sha256"]
    Path(paths[0][0]).write_text(json.dumps(content(3)))
    assert dataset_fingerprint(names[0])["sha256"] != first["sha256"]
    Path(paths[0][0]).unlink()
    with pytest.raises(DataError, match="does not exist"):
        dataset_fingerprint(names[0])


@pytest.mark.parametrize(
    ("generator", "infix", "classes"), [("coco", "_coco", 18), ("quickstart", "", 7)]
)
def test_embedded_names(generator: str, infix: str, classes: int) -> None:
    embedded = importlib.import_module(f"mask_rcnn_embedded.{generator}")
    names = list(embedded.THING_CLASSES)
    assert dataset_info(f"embedded{infix}_train") == names and len(names) == classes
    full = MetadataCatalog.get(f"embedded{infix}_val")  # known though the data are not made
    ids = {category["id"]: index for index, category in enumerate(embedded.CATEGORIES)}
    assert full.thing_classes == names and full.thing_dataset_id_to_contiguous_id == ids
    tiny = f"embedded_tiny{infix}"
    for split, number in (("train", embedded.TINY_SPEC.num_train), ("val", 12)):
        assert len(get_test_dicts(f"{tiny}_{split}")) == number
        assert MetadataCatalog.get(f"{tiny}_{split}").thing_classes == names
    assert not any(d["annotations"] for d in get_test_dicts(f"{tiny}_unlabeled"))
    people = get_training_dicts(f"{tiny}_person_train", min_keypoints=1)
    assert all(len(a["keypoints"]) == 51 for d in people for a in d["annotations"])
    assert MetadataCatalog.get(f"{tiny}_person_train").thing_classes == ["person"]


def test_the_streets_and_coco_share_seven_classes() -> None:
    classes = set(dataset_info("embedded_coco_train") or ())
    streets = set(MetadataCatalog.get("embedded_cityscapes_train").thing_classes)
    assert streets - classes == {"rider"}


@pytest.mark.parametrize(("many", "classes", "images"), [("", 30, 60), ("_many", 60, 120)])
def test_embedded_crops(many: str, classes: int, images: int) -> None:
    name = f"embedded_tiny{many}_crops_train"
    names = MetadataCatalog.get(name).thing_classes
    assert names == sorted(names) and len(names) == classes
    assert set(dataset_info("embedded_coco_train") or ()) < set(names)
    dicts = DatasetCatalog.get(name)
    assert [d["image_id"] for d in dicts] == list(range(1, images + 1))
    assert Counter(d["category_id"] for d in dicts) == dict.fromkeys(range(classes), 2)
    for d in dicts:  # ImageNet's directories: one for each class
        assert Path(d["file_name"]).parent.name == names[d["category_id"]]
    shape = cv2.imread(dicts[0]["file_name"]).shape
    assert shape == (dicts[0]["height"], dicts[0]["width"], 3)
    assert len(DatasetCatalog.get(f"embedded_tiny{many}_crops_val")) == images // 2


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, mask_rcnn_repro.data; print('torch' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(Path(__file__).parents[2] / "projects")},
    )
    assert result.stdout.strip() == "False"
