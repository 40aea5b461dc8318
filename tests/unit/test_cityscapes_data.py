"""Cityscapes' instances by hand, data sets by name, and what the mapper makes of them.

Rectangles of the fixtures run from their first to their last pixel, boxes to behind the last.
"""

from __future__ import annotations

import shutil
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cityscapesscripts.helpers.labels import labels
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, BoxMode, PolygonMasks
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from pycocotools import mask as mask_util

from mask_rcnn_repro.data import (
    MaskRCNNMapper,
    ProposalFile,
    ProposalWriter,
    dataset_fingerprint,
    dataset_info,
    get_cityscapes_dicts,
)
from mask_rcnn_repro.data.cityscapes.instances import find_instances
from mask_rcnn_repro.data.cityscapes.load import load_cityscapes
from mask_rcnn_repro.data.cityscapes.mask_outlines import mask_to_polygons
from mask_rcnn_repro.data.cityscapes.registration import CITYSCAPES, register_cityscapes
from mask_rcnn_repro.errors import ConfigError, DataError

from .cityscapes_data_helpers import (
    HEIGHT,
    STREET,
    WIDTH,
    paths,
    rectangle,
    write_ids,
    write_image,
    write_split,
)

PERSON, CAR, BICYCLE = 0, 2, 7


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MASK_RCNN_REPRO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    register_cityscapes()
    return tmp_path / "cityscapes"


def pixels(annotation: dict[str, Any]) -> np.ndarray:
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, list):
        segmentation = mask_util.merge(mask_util.frPyObjects(segmentation, HEIGHT, WIDTH))
    return mask_util.decode(segmentation).astype(bool)


@pytest.mark.parametrize("masks", ["instance_ids", "polygons"])
def test_one_image_by_hand(root: Path, masks: Any) -> None:
    files = write_image(root, "train", "aachen_000000_000019")
    (record,) = load_cityscapes(root, "train", masks)
    annotations = record.pop("annotations")
    assert record == {
        "file_name": str(files["image"]),
        "height": HEIGHT,
        "width": WIDTH,
        "image_id": "aachen_000000_000019",
        "instance_ids_file": str(files["instance_ids"]),
    }
    # in the order of the ids: the group of persons is 24, the person 24000, cars 26000 and 26001
    assert [(a["category_id"], a["iscrowd"], a["bbox"]) for a in annotations] == [
        (PERSON, 1, [44, 10, 54, 16]),
        (PERSON, 0, [24, 8, 28, 31]),
        (CAR, 0, [2, 10, 12, 20]),
        (CAR, 0, [20, 10, 40, 20]),
        (BICYCLE, 0, [5, 25, 16, 36]),
    ]
    assert all(a["bbox_mode"] == BoxMode.XYXY_ABS for a in annotations)
    # the second car's 20 columns, less 2 of the pole and 4 of the person, in 10 rows
    assert [int(pixels(a).sum()) for a in annotations[:4]] == [60, 92, 100, 140]
    car = pixels(annotations[3])
    assert car[10, [20, 23, 24, 27, 28, 29, 30, 31, 32]].tolist() == [1, 1, 0, 0, 1, 1, 0, 0, 1]
    if masks == "polygons":
        assert annotations[2]["segmentation"] == [[2, 10, 12, 10, 12, 20, 2, 20]]
        assert len(annotations[3]["segmentation"]) == 3
    else:
        assert annotations[2]["segmentation"]["size"] == [HEIGHT, WIDTH]


def test_classes_are_the_labels_that_are_evaluated() -> None:
    register_cityscapes()
    names = ["person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"]
    assert dataset_info("cityscapes_val") == names
    metadata = MetadataCatalog.get("embedded_tiny_cityscapes_test")
    assert metadata.thing_classes == names
    ids = {label.name: label.id for label in labels}
    wanted = {ids[name]: index for index, name in enumerate(names)}
    assert metadata.thing_dataset_id_to_contiguous_id == wanted
    assert (metadata.evaluator_type, metadata.cityscapes_split) == ("cityscapes_instance", "test")


def test_every_label_by_its_ids(root: Path) -> None:
    files = write_image(root, "val", "bonn_000000_000001")
    numbers = [label.id for label in labels if label.id >= 0]
    ids = np.zeros((HEIGHT, WIDTH), np.uint16)
    with_instances = {label.id for label in labels if label.hasInstances}
    for row, number in enumerate(numbers):  # label ids alone, and with the instance number 7
        ids[row, 3:5] = number
        if number in with_instances:  # a number is refused for others
            ids[row, 10] = 1000 * number + 7
    write_ids(files["instance_ids"], ids)
    found = load_cityscapes(root, "val")[0]["annotations"]
    evaluated = [n for n in numbers if n in (24, 25, 26, 27, 28, 31, 32, 33)]
    rows = [numbers.index(n) for n in evaluated]
    groups, single = found[:8], found[8:]
    assert [a["bbox"] for a in groups] == [[3, r, 5, r + 1] for r in rows]
    assert [a["bbox"] for a in single] == [[10, r, 11, r + 1] for r in rows]
    assert [a["iscrowd"] for a in found] == [1] * 8 + [0] * 8
    assert [a["category_id"] for a in found] == [*range(8), *range(8)]


@pytest.mark.parametrize("empty", [True, False])
def test_no_instance_and_a_full_image(empty: bool) -> None:
    ids = np.full((3, 4), 0 if empty else 26001, np.uint16)
    for masks in ("instance_ids", "polygons"):
        found = find_instances(ids, masks)
        assert [(i.bbox, i.iscrowd) for i in found] == ([] if empty else [([0, 0, 4, 3], 0)])
    if not empty:
        assert found[0].segmentation == [[0, 0, 4, 0, 4, 3, 0, 3]]


id_images = arrays.arrays(
    np.uint16,
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    elements=st.sampled_from([0, 7, 24, 24000, 24001, 26, 26999, 29000, 33002]),
)


@settings(max_examples=150, deadline=None)
@given(id_images)
def test_any_image_gives_back_its_pixels(ids: np.ndarray) -> None:
    height, width = ids.shape
    wanted = [i for i in (24, 26, 24000, 24001, 26999, 33002) if (ids == i).any()]
    runs, outlines = find_instances(ids, "instance_ids"), find_instances(ids, "polygons")
    assert len(runs) == len(outlines) == len(wanted)
    for value, run, outline in zip(wanted, runs, outlines, strict=True):
        mask = ids == value
        encoded = mask_util.encode(np.asfortranarray(mask, np.uint8))
        assert run.segmentation == encoded["counts"].decode()
        box = BitMasks(torch.as_tensor(mask[None])).get_bounding_boxes().tensor
        assert run.bbox == outline.bbox == box[0].tolist()
        assert isinstance(outline.segmentation, list)
        parts = mask_util.decode(mask_util.frPyObjects(outline.segmentation, height, width))
        assert (parts.sum(axis=2) == mask).all()  # no pixel twice, either


def test_outlines_by_hand() -> None:
    assert mask_to_polygons(np.zeros((4, 4))) == []
    diagonal = mask_to_polygons(np.eye(2), x=10, y=20)
    assert diagonal == [[10, 20, 11, 20, 11, 21, 10, 21], [11, 21, 12, 21, 12, 22, 11, 22]]
    ring = np.ones((3, 3))
    ring[1, 1] = 0
    left = [0, 0, 1, 0, 1, 3, 0, 3]
    right = [1, 0, 3, 0, 3, 3, 1, 3, 1, 2, 2, 2, 2, 1, 1, 1]
    assert mask_to_polygons(ring) == [left, right]


def test_polygons_alone_are_enough_for_polygons(root: Path) -> None:
    (stem,) = write_split(root, count=1)
    before = load_cityscapes(root, "train", "polygons")
    fingerprint = dataset_fingerprint("cityscapes_train")
    paths(root, "train", stem)["instance_ids"].unlink()
    record = load_cityscapes(root, "train", "polygons")[0]
    assert record["annotations"] == before[0]["annotations"]
    assert "instance_ids_file" not in record
    assert dataset_fingerprint("cityscapes_train") == fingerprint


def test_arguments_are_checked(root: Path) -> None:
    write_split(root)
    with pytest.raises(ConfigError, match=r"'instance_ids'.*'polygons'.*got 'rle'"):
        load_cityscapes(root, "train", "rle")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"dataset\.masks.*got 'rle'"):
        get_cityscapes_dicts("cityscapes_train", masks="rle")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="train, val, test; got 'minival'"):
        load_cityscapes(root, "minival")
    with pytest.raises(ConfigError, match="'embedded_tiny_train' is not in Cityscapes' format"):
        get_cityscapes_dicts(["cityscapes_train", "embedded_tiny_train"])
    with pytest.raises(DataError, match=r"cityscape_train.*Did you mean"):
        get_cityscapes_dicts("cityscape_train")


def test_the_dummy_annotations_of_test_are_none(root: Path) -> None:
    write_split(root, "test", 2)
    dicts = get_cityscapes_dicts("cityscapes_test", filter_empty=False)
    assert [sorted(record) for record in dicts] == [
        ["file_name", "height", "image_id", "width"]
    ] * 2
    with pytest.raises(DataError, match=r"'cityscapes_test' is not annotated.*filter_empty=false"):
        get_cityscapes_dicts("cityscapes_test")
    assert dataset_fingerprint("cityscapes_test")["num_instances"] == 0
    shutil.rmtree(root / "gtFine")  # which need not be there at all
    assert get_cityscapes_dicts("cityscapes_test", filter_empty=False) == dicts


def test_training_leaves_out_images_of_groups_alone(root: Path) -> None:
    group, road = rectangle("cargroup", 1, 1, 9, 9), STREET[0]
    write_image(root, "train", "aachen_000000_000001", [road])
    write_image(root, "train", "aachen_000000_000002", [road, group])
    write_image(
        root, "train", "aachen_000000_000003", [road, group, rectangle("bus", 20, 1, 30, 9)]
    )
    dicts = get_cityscapes_dicts("cityscapes_train", masks="polygons")
    assert [len(record["annotations"]) for record in dicts] == [2]
    dicts = get_cityscapes_dicts(["cityscapes_train"], filter_empty=False)
    assert [len(record["annotations"]) for record in dicts] == [0, 1, 2]
    shutil.rmtree(root)
    write_image(root, "train", "aachen_000000_000002", [road, group])
    with pytest.raises(DataError, match=r"cityscapes_train .*train on"):
        get_cityscapes_dicts("cityscapes_train")


def test_several_names(root: Path) -> None:
    train, val = write_split(root, "train", 2), write_split(root, "val", 1)
    dicts = get_cityscapes_dicts(["cityscapes_val", "cityscapes_train"])
    assert [record["image_id"] for record in dicts] == val + train


def test_metadata_finds_folders_when_asked(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = MetadataCatalog.get("cityscapes_val")
    register_cityscapes()  # again, which changes nothing
    assert MetadataCatalog.get("cityscapes_val") is metadata
    for place in (root, tmp_path / "moved" / "cityscapes"):
        monkeypatch.setenv("DETECTRON2_DATASETS", str(place.parent))
        assert metadata.cityscapes_root == str(place)
        assert metadata.gt_dir == str(place / "gtFine" / "val")
        assert metadata.image_dir == str(place / "leftImg8bit" / "val")
    assert metadata.get("json_file") is None
    assert set(CITYSCAPES) < set(DatasetCatalog.list())


def test_generated_data_by_name(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def generate(spec: str) -> Path:
        stems = write_split(tmp_path / spec, "train", 2)
        assert len(stems) == 2
        return tmp_path / spec

    module = types.ModuleType("mask_rcnn_embedded.cityscapes")
    module.FULL_SPEC, module.TINY_SPEC = "full", "tiny"  # type: ignore[attr-defined]
    module.ensure_generated = generate  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    import mask_rcnn_embedded

    monkeypatch.setattr(mask_rcnn_embedded, "cityscapes", module, raising=False)
    metadata = MetadataCatalog.get("embedded_tiny_cityscapes_train")
    assert not (tmp_path / "tiny").exists()
    dicts = get_cityscapes_dicts("embedded_tiny_cityscapes_train")
    assert dicts[0]["file_name"].startswith(str(tmp_path / "tiny"))
    assert metadata.cityscapes_root == str(tmp_path / "tiny")
    assert "expected" not in caplog.text
    assert not (tmp_path / "full").exists()


def test_fingerprint_is_of_annotations_alone(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stems = write_split(root)
    first = dataset_fingerprint("cityscapes_train")
    assert (first["num_images"], first["num_instances"]) == (3, 18)
    # elsewhere, packed otherwise
    shutil.copytree(root, tmp_path / "moved" / "cityscapes")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "moved"))
    png = paths(tmp_path / "moved" / "cityscapes", "train", stems[0])["instance_ids"]
    before = png.read_bytes()
    Image.open(png).save(png, compress_level=0)
    assert png.read_bytes() != before
    assert dataset_fingerprint("cityscapes_train") == first
    ids = np.array(Image.open(png))
    ids[0, 0] = 8  # one pixel of sidewalk
    write_ids(png, ids)
    assert dataset_fingerprint("cityscapes_train")["sha256"] != first["sha256"]


@pytest.mark.parametrize(
    ("masks", "kind"), [("instance_ids", BitMasks), ("polygons", PolygonMasks)]
)
def test_mapper_and_stored_proposals(root: Path, tmp_path: Path, masks: Any, kind: type) -> None:
    """Image ids are texts here, not numbers."""
    write_split(root, count=2)
    dicts = get_cityscapes_dicts("cityscapes_train", masks)
    fingerprint = f"sha256:{dataset_fingerprint('cityscapes_train')['sha256']}"
    image_ids = [record["image_id"] for record in dicts]
    writer = ProposalWriter(
        tmp_path / "proposals",
        dataset="cityscapes_train",
        fingerprint=fingerprint,
        image_ids=image_ids,
        topk=5,
    )
    for number, image_id in reversed(list(enumerate(image_ids))):
        box = np.array([[number, 1, 20, 30]], np.float32)
        writer.add(image_id, box, np.zeros(1, np.float32))
    writer.finish()
    assert ProposalFile(tmp_path / "proposals").image_ids == image_ids
    mapper = MaskRCNNMapper(
        is_train=True,
        augmentations=[T.NoOpTransform()],
        use_instance_mask=True,
        precomputed_proposal_topk=5,
        proposal_files=[str(tmp_path / "proposals")],
    )
    mapped = [mapper(record) for record in dicts]
    assert [m["proposals"].proposal_boxes.tensor.tolist() for m in mapped] == [
        [[0, 1, 20, 30]],
        [[1, 1, 20, 30]],
    ]
    instances = mapped[0]["instances"]
    assert isinstance(instances.gt_masks, kind)
    assert instances.gt_classes.tolist() == [PERSON, CAR, CAR, 3, BICYCLE]  # without the group
    boxes = instances.gt_masks.get_bounding_boxes().tensor
    assert torch.equal(boxes, instances.gt_boxes.tensor)
