"""Labeled and generated images in one training set: the ratio, the checks, the loader."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from detectron2.data import transforms as T
from hypothesis import given
from hypothesis import strategies as st

from mask_rcnn_repro.data import MaskRCNNMapper, build_train_loader, get_mixed_dicts
from mask_rcnn_repro.data.coco.file import coco_file
from mask_rcnn_repro.data.generated.annotations import (
    distillation_info,
    generated_facts,
    generated_source,
    read_info,
)
from mask_rcnn_repro.data.generated.mixed_dataset import check_mixture, mixed_indices
from mask_rcnn_repro.data.registration import coco_parts, register_all_datasets
from mask_rcnn_repro.errors import ConfigError, DataError

LABELED, PERSONS = "embedded_tiny_train", "embedded_tiny_person_train"
UNLABELED = 8  # images of embedded_tiny_unlabeled


def content(name=LABELED, unlabeled="embedded_tiny_unlabeled", fields=("segmentation",)):
    """Generated annotations for the tiny unlabeled images but the last: one square each."""
    register_all_datasets()
    labeled = coco_file(coco_parts(name)[0].json_file).take_content()
    images = coco_file(coco_parts(unlabeled)[0].json_file).content["images"]
    annotations = []
    for number, image in enumerate(images[:-1]):
        size, corner = 20, 8
        mask = [corner, corner, corner + size, corner, corner + size, corner + size]
        made = {
            "id": number + 1,
            "image_id": image["id"],
            "category_id": labeled["categories"][0]["id"],
            "bbox": [corner, corner, size, size],
            "area": size * size,
            "iscrowd": 0,
            "segmentation": [mask],
            "keypoints": [12, 14, 2] * 17,
            "num_keypoints": 17,
        }
        dropped = {"segmentation", "keypoints"} - set(fields)
        annotations.append({k: v for k, v in made.items() if k not in dropped})
    return {
        "info": {"distillation": {"unlabeled": {"name": unlabeled}}},
        "categories": labeled["categories"],
        "images": images,
        "annotations": annotations,
    }


def write(tmp_path, data):
    file = tmp_path / "generated.json"
    file.write_text(json.dumps(data))
    return str(file)


@pytest.mark.parametrize(
    ("labeled", "generated", "part", "draws"),
    [
        (3, 4, 0.5, (4, 4)),  # the labeled ones are too few by one
        (10, 2, 0.25, (10, 3)),  # 3 of 13 is as near to a quarter as 10 labeled images allow
        (6, 4, 0.4, (6, 4)),  # as they are
        (2, 9, 0.75, (3, 9)),
        (1, 1, 0.8, (1, 4)),
    ],
)
def test_an_epoch_by_hand(labeled, generated, part, draws):
    first, second = mixed_indices(labeled, generated, part)
    assert (len(first), len(second)) == draws


@given(st.integers(1, 300), st.integers(1, 300), st.floats(0.05, 0.95), st.integers(0, 2**32 - 1))
def test_every_image_comes_and_none_much_more_often(labeled, generated, part, seed):
    both = mixed_indices(labeled, generated, part, seed)
    for indices, count in zip(both, (labeled, generated), strict=True):
        times = np.bincount(indices, minlength=count)
        assert len(times) == count
        assert times.min() >= 1
        assert times.max() - times.min() <= 1
    assert len(both[0]) == labeled or len(both[1]) == generated, "no longer than needed"
    # one set's number is the exact ratio's, rounded to a whole image
    first, second = map(len, both)
    assert (
        min(abs(second - first * part / (1 - part)), abs(first - second * (1 - part) / part))
        <= 0.5 + 1e-6
    )


def test_the_seed_decides_which_come_once_more():
    again = [mixed_indices(50, 20, 0.5, seed)[1].tolist() for seed in (0, 0, 1)]
    assert again[0] == again[1]
    assert again[0] != again[2]
    assert again[0] == sorted(again[0])


def test_a_mixed_set(tmp_path):
    file = write(tmp_path, content())
    dicts = get_mixed_dicts(LABELED, file, generated_part=0.25)
    made = [d for d in dicts if d.get("generated")]
    labeled = [d for d in dicts if not d.get("generated")]
    assert len({d["image_id"] for d in made}) == UNLABELED - 1, "one has no instance"
    assert len({d["image_id"] for d in labeled}) == len(labeled) == 24
    assert len(made) == 8, "24 labeled ones are three quarters"
    assert all(d["file_name"].endswith(".jpg") for d in made)
    assert {d["annotations"][0]["category_id"] for d in made} == {0}
    both = get_mixed_dicts(LABELED, file, generated_part=0.25, filter_empty=False)
    assert len({d["image_id"] for d in both if d.get("generated")}) == UNLABELED


def test_images_of_ones_own(tmp_path):
    data = content()
    root = coco_parts("embedded_tiny_unlabeled")[0].image_root
    data["info"] = {}
    file = write(tmp_path, data)
    with pytest.raises(ConfigError, match=r"dataset\.generated_images"):
        get_mixed_dicts(LABELED, file)
    expected = get_mixed_dicts(LABELED, file, root)
    data["info"] = {"distillation": {"unlabeled": {"name": "mine", "image_root": root}}}
    assert get_mixed_dicts(LABELED, write(tmp_path, data)) == expected


def test_other_classes_and_keypoints_are_refused(tmp_path):
    data = content()
    data["categories"] = data["categories"][::-1][1:]
    data["annotations"] = []
    with pytest.raises(DataError, match=r"6 classes .* 7 "):
        get_mixed_dicts(LABELED, write(tmp_path, data))
    data = content(PERSONS, fields=("keypoints",))
    names = data["categories"][0]["keypoints"]
    names[0], names[1] = names[1], names[0]
    with pytest.raises(DataError, match=r"17 keypoints .* same order"):
        get_mixed_dicts(PERSONS, write(tmp_path, data), min_keypoints=1)


def test_what_is_missing_is_told_with_the_command_that_makes_it(tmp_path):
    with pytest.raises(ConfigError, match=r"distill\.py --config-file table9/resnext --unlab"):
        get_mixed_dicts(LABELED, teacher="table9/resnext", unlabeled="x")
    with pytest.raises(ConfigError, match=r"train_net\.py has table9/resnext generate"):
        get_mixed_dicts(LABELED, teacher="table9/resnext")
    with pytest.raises(ConfigError, match=r"generated and dataset\.teacher are null(.|\n)*distill"):
        get_mixed_dicts(LABELED)
    with pytest.raises(DataError, match=r"none\.json do not exist\. Make them with\n .*distill"):
        get_mixed_dicts(LABELED, str(tmp_path / "none.json"))
    data = content()
    data["annotations"] = []
    with pytest.raises(DataError, match=r"8 images .* generated instance"):
        get_mixed_dicts(LABELED, write(tmp_path, data))


def test_what_is_checked_before_anything_is_generated(tmp_path):
    check_mixture(None, 0.4, teacher="a")
    check_mixture(write(tmp_path, content()), 0.4)
    with pytest.raises(ConfigError, match=r"teacher are null"):
        check_mixture(None, 0.4)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        check_mixture(None, 40, teacher="a")
    with pytest.raises(DataError, match=r"none\.json do not exist"):  # a file comes first
        check_mixture(str(tmp_path / "none.json"), 0.4, teacher="a")


@pytest.mark.parametrize("part", [0, 1, -0.1, 40])
def test_a_part_is_no_percentage(tmp_path, part):
    with pytest.raises(ConfigError, match="between 0 and 1"):
        get_mixed_dicts(LABELED, write(tmp_path, content()), generated_part=part)


def test_info_is_read_without_the_rest(tmp_path):
    file = tmp_path / "a.json"
    file.write_text('{"info": {"a": {"b": 1}}, "annotations": [broken')
    assert read_info(file) == {"a": {"b": 1}}
    file.write_text('{"images": [{"info": 3}], "info": {"c": 2}}')
    assert read_info(file) == {"c": 2}
    file.write_text('{"images": []}')
    assert read_info(file) == {}
    assert generated_source(file).name is None
    assert distillation_info(file) == {}
    file.write_text('{"info": {"distillation": "by hand"}}')
    assert distillation_info(file) == {}


def test_what_identifies_generated_annotations(tmp_path):
    data = content()
    first = generated_facts(write(tmp_path, data))
    assert first["name"] == "embedded_tiny_unlabeled"
    assert (first["images"], first["instances"]) == (UNLABELED, UNLABELED - 1)
    # neither what "info" says of weights and folders nor the order of keys matters
    again = {key: data[key] for key in sorted(data)}
    again["info"] = {"distillation": {"checkpoint_sha256": "f" * 64}}
    assert again["info"] != data["info"] and list(again) != list(data)
    assert generated_facts(write(tmp_path, again)) == {**first, "name": "generated.json"}
    for change in (
        lambda d: d["annotations"][0]["bbox"].__setitem__(0, 9),
        lambda d: d["annotations"].pop(),
        lambda d: d["images"].reverse(),
        lambda d: d["categories"][0].update(id=70),
    ):
        other = content()
        change(other)
        found = generated_facts(write(tmp_path, other))
        assert found["fingerprint"] != first["fingerprint"]
    with pytest.raises(DataError, match="'images' must be a list"):
        generated_facts(write(tmp_path, {"images": {}}))


def mapper(**switches):
    resize = T.ResizeShortestEdge(64, 107)
    return MaskRCNNMapper(True, augmentations=[resize, T.RandomFlip()], **switches)


def test_the_loader_draws_the_stated_part(tmp_path):
    dicts = get_mixed_dicts(LABELED, write(tmp_path, content()), generated_part=0.4)
    loader = iter(
        build_train_loader(dicts, mapper(use_instance_mask=True), 1, num_workers=0, world_size=1)
    )
    drawn = Counter(bool(next(loader)[0].get("generated")) for _ in range(len(dicts)))
    assert (drawn[True], drawn[False]) == (16, 24), "an epoch, exactly"


@pytest.mark.parametrize("field", ["segmentation", "keypoints"])
def test_generated_images_without_what_is_learned_are_refused(tmp_path, field):
    other = {"segmentation": "keypoints", "keypoints": "segmentation"}[field]
    file = write(tmp_path, content(PERSONS, fields=(other,)))
    dicts = get_mixed_dicts(PERSONS, file)
    learned = mapper(use_instance_mask=field == "segmentation", use_keypoint=field == "keypoints")
    with pytest.raises(DataError, match=f"no annotation of the generated annotations .*{field}"):
        build_train_loader(dicts, learned, 1, num_workers=0)
