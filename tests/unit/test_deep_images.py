"""Images of 16 bits of which a camera uses fewer are scaled from their own range, everywhere."""

from __future__ import annotations

import json
import logging
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from mask_rcnn_repro.config import load_config
from mask_rcnn_repro.config.from_data import fit_to_data
from mask_rcnn_repro.data import datasets, get_test_dicts, get_training_dicts
from mask_rcnn_repro.data.deep_images import used_bits
from mask_rcnn_repro.data.loading.images import read_image
from mask_rcnn_repro.data.loading.mapper import MaskRCNNMapper
from mask_rcnn_repro.engine.dependencies import _data_overrides
from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.records.provenance import dataset_info
from mask_rcnn_repro.registration import register

from .data_helpers import HEIGHT, WIDTH, content

VALUES = np.array([[0, 15, 16], [2048, 4080, 4095]], np.uint16)
EIGHT = [[0, 0, 1], [128, 255, 255]]  # VALUES / 16, rounded down


def _record(file: Path, **more: Any) -> dict[str, Any]:
    return {"file_name": str(file), "height": 2, "width": 3, **more}


@pytest.mark.parametrize("name", ["grey.png", "grey.tif"])
def test_grey_is_scaled_from_the_stated_bits(tmp_path: Path, name: str) -> None:
    Image.fromarray(VALUES).save(tmp_path / name)
    image = read_image(_record(tmp_path / name, image_bits=12), "RGB")
    assert image[..., 0].tolist() == image[..., 2].tolist() == EIGHT
    upper = read_image(_record(tmp_path / name), "RGB")
    assert upper[..., 1].tolist() == [[0, 0, 0], [8, 15, 15]]
    clipped = read_image(_record(tmp_path / name, image_bits=10), "RGB")
    assert clipped[..., 1].tolist() == [[0, 3, 4], [255, 255, 255]]


@pytest.mark.parametrize("name", ["color.png", "color.tif"])
@pytest.mark.parametrize("bits", [12, 16])
def test_color_is_scaled_alike(tmp_path: Path, name: str, bits: int) -> None:
    planes = np.stack([VALUES, VALUES[::-1], VALUES // 2], axis=2)  # blue, green, red in OpenCV
    cv2.imwrite(str(tmp_path / name), planes)
    image = read_image(_record(tmp_path / name, image_bits=bits), "BGR")
    assert image.tolist() == (planes >> (bits - 8)).tolist()
    assert used_bits([str(tmp_path / name)]) == 12


@pytest.mark.parametrize("orientation", range(1, 9))
def test_color_is_rotated_once(tmp_path: Path, orientation: int) -> None:
    """As Pillow rotates the image of 8 bits."""
    planes = np.arange(18, dtype=np.uint16).reshape(2, 3, 3) * 200
    cv2.imwrite(str(tmp_path / "deep.png"), planes)
    exif = Image.Exif()
    exif[0x0112] = orientation
    eight = Image.fromarray((planes >> 4).astype(np.uint8)[:, :, ::-1])
    eight.save(tmp_path / "eight.png", exif=exif)
    plain, turned = ((tmp_path / f"{name}.png").read_bytes() for name in ("deep", "eight"))
    start = turned.index(b"eXIf") - 4
    length = 12 + int.from_bytes(turned[start : start + 4], "big")
    (tmp_path / "deep.png").write_bytes(plain[:33] + turned[start : start + length] + plain[33:])
    images = [
        read_image({"file_name": str(tmp_path / f"{name}.png"), "image_bits": 12}, "RGB")
        for name in ("deep", "eight")
    ]
    assert images[0].tolist() == images[1].tolist()


def test_a_file_that_states_its_bits_has_the_last_word(tmp_path: Path) -> None:
    """TIFF of 12 bits a sample: two values in three bytes."""
    data = bytes.fromhex("00080f" + "fff000")  # 0x000, 0x80f; 0xfff, 0x000
    tags = [(256, 2), (257, 2), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 2)]
    tags.append((279, len(data)))
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    body = data + b"\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4)
    file = tmp_path / "twelve.tif"
    file.write_bytes(struct.pack("<2sHI", b"II", 42, 16) + body)
    image = read_image({"file_name": str(file), "image_bits": 16}, "RGB")
    assert image[..., 0].tolist() == [[0, 0x80], [0xFF, 0]]
    assert used_bits([str(file)]) is None  # needs no number of the data set


@pytest.mark.parametrize(
    ("largest", "bits"), [(0, 8), (255, 8), (256, 10), (1024, 12), (4096, 14), (16384, 16)]
)
def test_used_bits_of_a_data_set(tmp_path: Path, largest: int, bits: int) -> None:
    files = [tmp_path / f"{i}.png" for i in range(3)]
    for file, value in zip(files, (0, largest, largest // 2), strict=True):
        Image.fromarray(np.full((2, 3), value, np.uint16)).save(file)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    assert used_bits([*map(str, files), str(broken), str(tmp_path / "missing.png")]) == bits
    eight = tmp_path / "eight.png"
    Image.new("RGB", (3, 2)).save(eight)
    assert used_bits([str(eight), str(broken)]) is None and used_bits([]) is None


def _data_set(folder: Path, largest: int = 4000, dtype: type = np.uint16) -> dict[str, str]:
    data = content()
    folder.mkdir()
    for number, image in enumerate(data["images"]):
        image["file_name"] = f"{image['id']}.png"
        pixels = np.full((HEIGHT, WIDTH), largest // (number + 1), dtype)
        Image.fromarray(pixels).save(folder / image["file_name"])
    (folder / "data.json").write_text(json.dumps(data))
    name = f"{folder.parent.name}_{folder.name}"
    return {"names": name, "json": str(folder / "data.json"), "image_root": str(folder)}


def _fitted(train: dict[str, str], test: dict[str, str], *more: str) -> Any:
    register()
    keys = [
        f"dataloader.{split}.dataset.{key}={value}"
        for split, values in (("train", train), ("test", test))
        for key, value in values.items()
    ]
    keys += ["train.proposals=null", *more]
    return fit_to_data(load_config("quickstart/mask_rcnn_r18_fpn", "tiny", keys), keys)


def test_training_and_test_images_have_one_scale(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train, test = _data_set(tmp_path / "train"), _data_set(tmp_path / "test", largest=900)
    with caplog.at_level(logging.WARNING):
        cfg = _fitted(train, test)
    assert "use 12 bits, so values from 0 to 4095" in caplog.text
    assert cfg.dataloader.train.dataset.image_bits == cfg.dataloader.test.dataset.image_bits == 12
    assert dataset_info(cfg.dataloader.test)["image_bits"] == 12  # type: ignore[index]
    record = get_test_dicts(test["names"])[0]  # as drawings read it: by name alone
    assert read_image(record, "RGB").max() == 900 // 16
    item = MaskRCNNMapper(False, augmentations=[])(record)
    assert item["image"].max() == 900 // 16
    # a stage whose config is of other data gets the number with the data
    stage = load_config("rpn/r50_fpn", "tiny")
    assert "dataloader.test.dataset.image_bits=12" in _data_overrides(cfg, stage)


def test_the_config_has_the_last_word_and_eight_bits_add_no_key(tmp_path: Path) -> None:
    deep = _data_set(tmp_path / "deep")
    cfg = _fitted(deep, deep, "dataloader.train.dataset.image_bits=14")
    assert cfg.dataloader.train.dataset.image_bits == cfg.dataloader.test.dataset.image_bits == 14
    assert get_training_dicts(**deep)[0]["image_bits"] == 14
    plain = _data_set(tmp_path / "plain", largest=200, dtype=np.uint8)
    cfg = _fitted(plain, plain)
    assert "image_bits" not in cfg.dataloader.train.dataset
    assert "image_bits" not in get_training_dicts(**plain)[0]
    with pytest.raises(ConfigError, match=r"image_bits is 17, .* 8 to 16"):
        _fitted(deep, deep, "dataloader.train.dataset.image_bits=17")


def test_without_a_config_a_data_set_is_measured(tmp_path: Path) -> None:
    deep = _data_set(tmp_path / "alone")
    assert datasets.dataset_image_bits(**deep) == 12
    assert {record["image_bits"] for record in get_test_dicts(**deep)} == {12}
