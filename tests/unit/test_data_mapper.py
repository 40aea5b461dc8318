"""The mapper: targets, flips, mixed mask formats and broken images."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, BoxMode, PolygonMasks
from PIL import Image

from mask_rcnn_repro.data import MaskRCNNMapper
from mask_rcnn_repro.data.coco.load import load_coco_json
from mask_rcnn_repro.data.keypoint_metadata import keypoint_flip_indices
from mask_rcnn_repro.errors import ConfigError, DataError

from .data_helpers import HEIGHT, WIDTH, annotation, content, write


@pytest.fixture
def record(tmp_path: Path) -> dict[str, Any]:
    return load_coco_json(*write(tmp_path, content(1))).dicts[0]


def mapper(*augmentations: Any, **options: Any) -> MaskRCNNMapper:
    options = {"is_train": True, "use_instance_mask": True, **options}
    return MaskRCNNMapper(augmentations=list(augmentations), **options)


def test_targets_without_augmentation(record: dict[str, Any]) -> None:
    before = copy.deepcopy(record)
    result = mapper()(record)
    assert record == before
    pixels = np.asarray(Image.open(record["file_name"]))
    np.testing.assert_array_equal(result["image"].permute(1, 2, 0).numpy(), pixels[:, :, ::-1])
    instances = result["instances"]
    assert instances.image_size == (HEIGHT, WIDTH)
    assert instances.gt_boxes.tensor.tolist() == [[4.5, 4.5, 14.5, 14.5]]
    assert instances.gt_classes.tolist() == [1]
    assert isinstance(instances.gt_masks, PolygonMasks)
    assert "annotations" not in result
    assert (result["image_id"], result["height"], result["width"]) == (10, HEIGHT, WIDTH)


def test_flip_mirrors_box_mask_and_pixels(record: dict[str, Any]) -> None:
    plain, flipped = mapper()(record), mapper(T.RandomFlip(prob=1.0))(record)
    assert torch.equal(flipped["image"], plain["image"].flip(2))
    assert flipped["instances"].gt_boxes.tensor.tolist() == [[25.5, 4.5, 35.5, 14.5]]
    polygon = flipped["instances"].gt_masks.polygons[0][0]
    assert polygon.tolist() == [35.5, 4.5, 25.5, 4.5, 35.5, 14.5]


def test_integer_coordinates_are_not_rounded_by_resizing(record: dict[str, Any]) -> None:
    entry = record["annotations"][0]
    entry["bbox"], entry["segmentation"] = [3, 3, 5, 5], [[3, 3, 8, 3, 3, 8]]
    instances = mapper(T.Resize((45, 60)))(record)["instances"]
    assert instances.gt_boxes.tensor.tolist() == [[4.5, 4.5, 12.0, 12.0]]
    assert instances.gt_masks.polygons[0][0].tolist() == [4.5, 4.5, 12.0, 4.5, 4.5, 12.0]


def test_boxes_are_clipped_and_empty_ones_dropped(record: dict[str, Any]) -> None:
    first = record["annotations"][0]
    partly = dict(first, bbox=[30.0, 20.0, 20.0, 20.0])
    outside = dict(first, bbox=[100.0, 20.0, 20.0, 20.0])
    record["annotations"] = [partly, outside]
    instances = mapper()(record)["instances"]
    assert instances.gt_boxes.tensor.tolist() == [[30.0, 20.0, WIDTH, HEIGHT]]


def test_arrays_given_by_a_user_are_left_as_they_are(record: dict[str, Any]) -> None:
    polygon = np.array(record["annotations"][0]["segmentation"][0])
    record["annotations"][0]["segmentation"] = [polygon]
    before = polygon.copy()
    mapper(T.RandomFlip(prob=1.0))(record)
    np.testing.assert_array_equal(polygon, before)


def test_crowds_and_maskless_instances_are_left_out(tmp_path: Path) -> None:
    data = content(1)
    data["annotations"] += [
        annotation(2, 10, iscrowd=1),
        annotation(3, 10, segmentation=..., category_id=3),
    ]
    record = load_coco_json(*write(tmp_path, data)).dicts[0]
    assert mapper()(record)["instances"].gt_classes.tolist() == [1]
    boxes_only = mapper(use_instance_mask=False)(record)["instances"]
    assert boxes_only.gt_classes.tolist() == [1, 0]
    assert not boxes_only.has("gt_masks")


def test_rle_switches_its_image_to_bit_masks(tmp_path: Path) -> None:
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[10:20, 5:9] = 1
    rle = mask_util.encode(np.asfortranarray(mask))
    rle["counts"] = rle["counts"].decode()
    data = content(2)
    data["annotations"].append(annotation(1, 10, segmentation=rle, bbox=[5, 10, 4, 10]))
    data["annotations"].append(annotation(2, 20, segmentation=rle, iscrowd=1))
    dicts = load_coco_json(*write(tmp_path, data)).dicts
    mixed, crowd = (mapper(T.RandomFlip(prob=1.0))(d)["instances"] for d in dicts)
    assert isinstance(mixed.gt_masks, BitMasks)
    np.testing.assert_array_equal(mixed.gt_masks.tensor[1].numpy(), mask[:, ::-1].astype(bool))
    assert 40 <= int(mixed.gt_masks.tensor[0].sum()) <= 60  # the triangle, 50 pixels
    assert isinstance(crowd.gt_masks, PolygonMasks)  # the crowd's RLE is not trained on


def test_image_without_instances(record: dict[str, Any]) -> None:
    record["annotations"] = []
    for recompute in (False, True):
        instances = mapper(recompute_boxes=recompute)(record)["instances"]
        assert len(instances) == 0 and instances.gt_boxes.tensor.shape == (0, 4)


def test_boxes_recomputed_from_cropped_masks(record: dict[str, Any]) -> None:
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[10:20, 5:9] = 1
    record["annotations"][0].update(
        segmentation=mask_util.encode(np.asfortranarray(mask)), bbox=[0.0, 0.0, WIDTH, HEIGHT]
    )
    crop = T.CropTransform(0, 15, WIDTH, 10)
    kept, tight = (mapper(crop, recompute_boxes=r)(record)["instances"] for r in (False, True))
    assert kept.gt_boxes.tensor.tolist() == [[0, 0, WIDTH, 10]]
    assert tight.gt_boxes.tensor.tolist() == [[5, 0, 9, 5]]


def test_test_time_reads_images_only(record: dict[str, Any]) -> None:
    result = mapper(T.Resize((60, 80)), is_train=False)(record)
    assert sorted(result) == ["file_name", "height", "image", "image_id", "width"]
    assert result["image"].shape == (3, 60, 80)
    assert (result["height"], result["width"]) == (HEIGHT, WIDTH)


def test_keypoint_flip_swaps_left_and_right(record: dict[str, Any]) -> None:
    indices = keypoint_flip_indices()
    assert indices == [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]
    keypoints = np.zeros((17, 3))
    keypoints[1] = [10.5, 5.5, 2]  # left eye
    record["annotations"][0]["keypoints"] = keypoints.reshape(-1).tolist()
    record["annotations"].append(
        {"bbox": [1.0, 1, 5, 5], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
    )
    options = {"use_keypoint": True, "use_instance_mask": False}
    flipped = mapper(T.RandomFlip(prob=1.0), **options)(record)["instances"].gt_keypoints.tensor
    assert flipped[0, 2].tolist() == [WIDTH - 10.5, 5.5, 2]  # now the right eye
    assert int((flipped[:, :, 2] > 0).sum()) == 1  # the instance without keypoints is unlabeled
    record["annotations"][0]["keypoints"] = [1.0, 1.0, 2.0]
    with pytest.raises(DataError, match=r"1 keypoints, .* 17"):
        mapper(**options)(record)


def test_recomputing_boxes_needs_masks() -> None:
    with pytest.raises(ConfigError, match="use_instance_mask"):
        mapper(use_instance_mask=False, recompute_boxes=True)


@pytest.mark.parametrize("keep", [0.0, 0.02, 0.5, 0.95])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_truncated_image(record: dict[str, Any], keep: float, suffix: str) -> None:
    source = Image.open(record["file_name"])
    file = Path(record["file_name"]).with_suffix(f".{suffix}")
    source.load()
    source.save(file)
    content = file.read_bytes()
    file.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(DataError, match=rf"Image 10, file {file}, cannot be decoded"):
        mapper()(dict(record, file_name=str(file)))


def test_text_instead_of_an_image(record: dict[str, Any]) -> None:
    Path(record["file_name"]).write_text("<html>404</html>")
    with pytest.raises(DataError, match=r"Image 10, .*UnidentifiedImageError"):
        mapper()(record)


def test_missing_image_with_a_backslash_in_its_name(record: dict[str, Any]) -> None:
    record["file_name"] = record["file_name"].replace("10.jpg", r"sub\10.jpg")
    with pytest.raises(DataError, match=r"backslash.*'/'"):
        mapper()(record)


def test_missing_image(record: dict[str, Any]) -> None:
    Path(record["file_name"]).unlink()
    with pytest.raises(DataError, match=r"Image 10, .*10\.jpg, is missing"):
        mapper()(record)


def test_image_of_another_size(record: dict[str, Any]) -> None:
    Image.new("RGB", (HEIGHT, WIDTH)).save(record["file_name"])
    with pytest.raises(DataError, match=r"40 x 30 .* 30 x 40"):
        mapper()(record)
