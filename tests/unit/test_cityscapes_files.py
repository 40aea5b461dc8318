"""Cityscapes files that are missing, too many or damaged: real faults, really caused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from PIL import Image

from mask_rcnn_repro.data import get_cityscapes_dicts
from mask_rcnn_repro.data.cityscapes.load import load_cityscapes
from mask_rcnn_repro.data.cityscapes.registration import register_cityscapes
from mask_rcnn_repro.errors import DataError

from .cityscapes_data_helpers import (
    HEIGHT,
    WIDTH,
    flip,
    paths,
    truncate,
    write_ids,
    write_image,
    write_split,
)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MASK_RCNN_REPRO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    register_cityscapes()
    return tmp_path / "cityscapes"


@pytest.mark.parametrize("masks", ["instance_ids", "polygons"])
def test_missing_and_extra_annotations(
    root: Path, masks: Any, caplog: pytest.LogCaptureFixture
) -> None:
    stems = write_split(root)
    paths(root, "train", stems[2])["image"].unlink()
    assert [r["image_id"] for r in load_cityscapes(root, "train", masks)] == stems[:2]
    warning = next(r.getMessage() for r in caplog.records if r.levelname == "WARNING")
    assert "expected 3 images" in warning
    assert "found 2" in warning
    assert stems[2] in warning
    paths(root, "train", stems[0])[masks].unlink()
    with pytest.raises(DataError) as error:
        load_cityscapes(root, "train", masks)
    for part in ("each of 2 images", "found 1, 1 are missing", stems[0], "1 annotations have no"):
        assert part in str(error.value)


def test_other_files_are_told(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_split(root, count=1)
    (root / "leftImg8bit/train/aachen/photo.jpg").touch()
    (root / "leftImg8bit/train/.DS_Store").touch()
    (root / "leftImg8bit/train/aachen/.hidden").touch()
    assert len(load_cityscapes(root, "train")) == 1
    assert "1 files are not named" in caplog.text
    assert "aachen/photo.jpg" in caplog.text


def test_same_id_in_two_cities(root: Path) -> None:
    (stem,) = write_split(root, count=1)
    shutil.copytree(root / "leftImg8bit/train/aachen", root / "leftImg8bit/train/bonn")
    with pytest.raises(DataError, match=f"{stem}.*duplicate"):
        load_cityscapes(root, "train")


def test_official_numbers_are_expected_of_the_real_data(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for split, number in (("train", 2975), ("val", 500), ("test", 1525)):
        caplog.clear()
        write_split(root, split)
        assert len(DatasetCatalog.get(f"cityscapes_{split}")) == 3
        assert f"expected {number} images, found 3" in caplog.text
    caplog.clear()
    load_cityscapes(root, "train")  # a user's own data of any size
    assert "expected" not in caplog.text


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_missing_root(root: Path, tmp_path: Path, split: str) -> None:
    with pytest.raises(DataError) as error:
        get_cityscapes_dicts(f"cityscapes_{split}", filter_empty=False)
    for part in (
        f"{root}/leftImg8bit/{split}",
        f"nearest that exists is {tmp_path}",
        f"DETECTRON2_DATASETS={tmp_path}",
        "gtFine/SPLIT/CITY/*_gtFine_instanceIds.png",
        "datasets/README.md",
    ):
        assert part in str(error.value)


def test_missing_parts_of_the_root(root: Path) -> None:
    write_split(root)
    for path in (root / "leftImg8bit/train").glob("*/*.png"):
        path.rename(path.with_suffix(".jpg"))
    with pytest.raises(DataError, match=r"'train'.* 3 other files"):
        load_cityscapes(root, "train")
    shutil.rmtree(root / "gtFine")
    with pytest.raises(DataError, match=r"looked for the folder .*gtFine/train"):
        load_cityscapes(root, "train")


def _eight_bits(files: dict[str, Path]) -> None:
    ids = np.asarray(Image.open(files["instance_ids"]))
    Image.fromarray((ids % 256).astype(np.uint8)).save(files["instance_ids"])


def _coloured(files: dict[str, Path]) -> None:
    Image.open(files["image"]).save(files["instance_ids"])


def _smaller(files: dict[str, Path]) -> None:
    write_ids(files["instance_ids"], np.zeros((HEIGHT, WIDTH - 1)))


def _unknown_ids(files: dict[str, Path]) -> None:
    write_ids(files["instance_ids"], np.full((HEIGHT, WIDTH), 34001))


def _train_ids(files: dict[str, Path]) -> None:
    write_ids(files["instance_ids"], np.full((HEIGHT, WIDTH), 255))


def _instance_train_ids(files: dict[str, Path]) -> None:
    """As cityscapesscripts writes them: of evaluated labels the train ids, 11 to 18, are numbered.

    Label ids 11 to 18 are building, wall, fence and so on, which have no instances.
    """
    ids = np.full((HEIGHT, WIDTH), 255)
    ids[:, :9] = 0  # road
    ids[5:9, 5:9] = 11003
    write_ids(files["instance_ids"], np.where(ids == 255, 7, ids))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda files: truncate(files["instance_ids"], 10), "damaged"),
        (lambda files: truncate(files["instance_ids"], 20), "damaged"),
        (lambda files: truncate(files["instance_ids"], 100), "damaged"),
        (lambda files: flip(files["instance_ids"]), "damaged"),
        (lambda files: files["instance_ids"].write_bytes(b"no png"), "damaged"),
        (lambda files: files["instance_ids"].write_bytes(b""), "damaged"),
        (_eight_bits, "mode 'L'.*16 bits"),
        (_coloured, "mode 'RGB'"),
        (_smaller, f"{HEIGHT} x {WIDTH - 1} .*{HEIGHT} x {WIDTH}"),
        (_unknown_ids, r"\[34001\], of label ids that are not public"),
        (_instance_train_ids, r"\[11003\], .* numbered instances of building: .*json2instanceImg"),
        (_train_ids, r"\[255\].*train ids"),
    ],
)
@pytest.mark.parametrize("workers", [1, 2])
def test_broken_pngs(root: Path, damage: Any, told: str, workers: int) -> None:
    stems = write_split(root, count=3)
    files = paths(root, "train", stems[1])
    damage(files)
    with pytest.raises(DataError, match=told) as error:
        load_cityscapes(root, "train", num_workers=workers)
    assert str(files["instance_ids"]) in str(error.value)
    write_image(root, "train", stems[1])  # fixed, it is read
    assert len(load_cityscapes(root, "train")) == 3


def test_a_byte_order_mark_of_polygons_is_read(root: Path) -> None:
    (stem,) = write_split(root, count=1)
    plain = load_cityscapes(root, "train", "polygons")
    file = paths(root, "train", stem)["polygons"]
    file.write_text(file.read_text(), encoding="utf-8-sig")
    assert load_cityscapes(root, "train", "polygons") == plain


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "json is damaged"),
        ('{"imgHeight": 48, "imgWidth": 64, "obj', "json is damaged"),
        ("[]", "'objects'"),
        ({"imgWidth": WIDTH, "objects": []}, "'imgHeight' is None"),
        ({"imgHeight": 48.5, "imgWidth": WIDTH, "objects": []}, "'imgHeight' is 48.5"),
        ({"imgHeight": HEIGHT, "imgWidth": 65, "objects": []}, "48 x 65 .*48 x 64"),
        ([{"label": "unicorn", "polygon": [[1, 1], [2, 2], [1, 2]]}], "label 'unicorn'"),
        ([{"label": 7, "polygon": [[1, 1], [2, 2], [1, 2]]}], "label 7"),
        ([{"label": "car", "polygon": [[1, 1]]}], r"objects\[0\] has no 'polygon'"),
        ([{"label": "car", "polygon": [[1, 1], [2, None], [3, 3]]}], "has no 'polygon'"),
        ([{"label": "car"}], "has no 'polygon'"),
        (["car"], "has no 'polygon'"),
    ],
)
def test_broken_polygons(root: Path, content: Any, told: str) -> None:
    stems = write_split(root, count=2)
    file = paths(root, "train", stems[1])["polygons"]
    if isinstance(content, list):
        content = {"imgHeight": HEIGHT, "imgWidth": WIDTH, "objects": content}
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(DataError, match=told) as error:
        load_cityscapes(root, "train", "polygons")
    assert str(file) in str(error.value)


def test_broken_image_header(root: Path) -> None:
    (stem,) = write_split(root, "test", 1)
    file = paths(root, "test", stem)["image"]
    file.write_bytes(b"nothing")
    with pytest.raises(DataError, match=str(file)):
        load_cityscapes(root, "test")
    file.unlink()
    file.symlink_to(root / "nowhere.png")
    with pytest.raises(DataError, match=f"{file} cannot be read"):
        load_cityscapes(root, "test")
