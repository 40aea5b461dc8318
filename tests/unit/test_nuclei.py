"""`datasets/convert_nuclei.py`, and the rows of the paper on what it writes (docs/real_data.md)."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import shlex
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mask_rcnn_repro.data import get_test_dicts
from mask_rcnn_tools.tables.choose import choose_rows, find_tables
from mask_rcnn_tools.tables.cli import parse_args
from mask_rcnn_tools.tables.jobs import Job
from mask_rcnn_tools.tables.plan import make_plan

ROOT = Path(__file__).resolve().parents[2]
REAL = ROOT.parent / "shared" / "data" / "nuclei"
PAGE = (ROOT / "docs" / "real_data.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "convert_nuclei", ROOT / "datasets" / "convert_nuclei.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def put(source: Path, name: str, image: np.ndarray, masks: list[np.ndarray]) -> None:
    """Writes an image and its masks as the archive has them."""
    for part in ("images", "masks"):
        (source / name / part).mkdir(parents=True)
    cv2.imwrite(str(source / name / "images" / f"{name}.png"), image)
    for number, mask in enumerate(masks):
        cv2.imwrite(str(source / name / "masks" / f"{number}.png"), mask)


def rectangle(height: int, width: int, x: int, y: int, w: int, h: int) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    mask[y : y + h, x : x + w] = 255
    return mask


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Ten images of 16 x 12 pixels, and one of 40 x 12, in BGRA as the archive has them."""
    folder = tmp_path / "stage1_train"
    for number in range(11):
        width = 40 if number == 10 else 16
        image = np.full((12, width, 4), 255, np.uint8)
        image[..., :3] = 7 * number
        image[0, 0, 2] += number == 3  # one of them is not grey
        masks = [rectangle(12, width, 2, 1, 3, 4), rectangle(12, width, 9, 5, 6, 2)]
        masks += [np.zeros((12, width), np.uint8)] * (number == 0)
        put(folder, f"image{number:02d}", image, masks)
    return folder


def read(folder: Path) -> dict[str, dict[str, Any]]:
    return {
        s: json.loads((folder / "annotations" / f"{s}.json").read_text()) for s in ("train", "val")
    }


def test_annotations_by_hand(script: ModuleType, source: Path, tmp_path: Path) -> None:
    target = tmp_path / "nuclei"
    assert script.main([str(source), str(target), "--max-side", "16"]) == 0
    found = read(target)
    assert [len(found[s]["images"]) for s in found] == [8, 2], "a fifth of ten is val"
    assert [i["id"] for i in found["train"]["images"]] == list(range(1, 9))
    assert [i["id"] for i in found["val"]["images"]] == [1001, 1002]
    for split, start in (("train", 1), ("val", 10_000_001)):
        content = found[split]
        annotations = content["annotations"]
        assert [a["id"] for a in annotations] == [start + i for i in range(len(annotations))]
        assert content["categories"] == [{"id": 1, "name": "nucleus", "supercategory": "cell"}]
        assert content["licenses"][0]["name"] == "CC0 1.0"
        for image in content["images"]:
            assert (image["width"], image["height"]) == (16, 12)
            assert image["file_name"] == f"{image['id']:06d}.png"
            one, other = (a for a in annotations if a["image_id"] == image["id"])
            assert (one["bbox"], one["area"]) == ([2, 1, 3, 4], 12)
            assert (other["bbox"], other["area"]) == ([9, 5, 6, 2], 12)
            decoded = coco_mask.decode(one["segmentation"])
            assert np.array_equal(decoded, rectangle(12, 16, 2, 1, 3, 4) > 0)
            assert {a["iscrowd"] for a in (one, other)} == {0}
            assert (target / split / image["file_name"]).is_file()


def test_images_keep_their_pixels_without_alpha(
    script: ModuleType, source: Path, tmp_path: Path
) -> None:
    target = tmp_path / "nuclei"
    script.convert(source, target, max_side=16)
    shapes = []
    for file in sorted(target.glob("*/*.png")):
        image = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        shapes.append(image.ndim)
        assert (image.reshape(12, 16, -1)[1:] == image[-1, -1]).all()
    assert sorted(shapes) == [2] * 9 + [3], "grey, except the one with a colour"


def test_the_split_is_seeded_and_depends_on_ids_alone(script: ModuleType) -> None:
    names = [f"n{i}" for i in range(10)]
    digest = {n: hashlib.sha256(f"5:{n}".encode()).hexdigest() for n in names}
    val = sorted(sorted(names, key=digest.__getitem__)[:3])
    made = script.split_ids(names, 0.3, 5)
    assert made == {"train": [n for n in names if n not in val], "val": val}
    assert script.split_ids(names[::-1], 0.3, 5) == made, "whatever the order of the folders"
    assert script.split_ids(names, 0.3, 6) != made
    few = script.split_ids(names[:2], 0.01, 0)
    assert [len(few[s]) for s in few] == [1, 1], "neither split is empty"


def test_two_conversions_are_equal(script: ModuleType, source: Path, tmp_path: Path) -> None:
    a, b, c = (tmp_path / name for name in "abc")
    for target, seed in ((a, 1), (b, 1), (c, 2)):
        script.convert(source, target, seed=seed)
    files = [f.relative_to(a) for f in sorted(a.rglob("*.*"))]
    assert all((a / f).read_bytes() == (b / f).read_bytes() for f in files) and len(files) == 13
    # images of another split are other ones, though their numbers are the same
    assert any((a / f).read_bytes() != (c / f).read_bytes() for f in files if f.suffix == ".png")


def test_masks_without_a_pixel_are_counted(
    script: ModuleType, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script.convert(source, tmp_path / "nuclei")
    out = capsys.readouterr().out
    assert out.count("1 masks without a pixel omitted") == 1
    counts = re.findall(r"(\d+) images, (\d+) nuclei", out)
    assert [(int(i), int(n)) for i, n in counts] == [(9, 18), (2, 4)]


def test_faults_are_named(
    script: ModuleType, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def error(*words: str) -> str:
        assert script.main([*words]) == 2
        return capsys.readouterr().err

    target = str(tmp_path / "out")
    assert "stage1_train itself" in error(str(tmp_path / "nowhere"), target)
    assert "0 of them with an image of that size" in error(str(source), target, "--max-side", "9")
    assert "between 0 and 1" in error(str(source), target, "--val-share", "1")
    assert "exists already" in error(str(source), str(source))
    bad = source / "image04" / "masks" / "0.png"
    cv2.imwrite(str(bad), rectangle(16, 12, 1, 1, 2, 2))
    assert "12 x 16 pixels, its image 16 x 12" in error(str(source), target)
    bad.write_bytes(b"no image")
    assert "0.png is no image" in error(str(source), str(tmp_path / "out2"))
    (source / "image05" / "images" / "second.png").write_bytes(b"")
    assert "it holds 2" in error(str(source), str(tmp_path / "out3"))


def test_the_real_data_have_this_format(script: ModuleType, source: Path, tmp_path: Path) -> None:
    if not (REAL / "annotations" / "train.json").is_file():
        pytest.skip(f"the converted nuclei are not in {REAL}")
    script.convert(source, tmp_path / "nuclei")
    made, real = read(tmp_path / "nuclei"), read(REAL)
    for split in ("train", "val"):
        ours, theirs = made[split], real[split]
        assert ours.keys() == theirs.keys()
        assert ours["licenses"] == theirs["licenses"]
        assert ours["categories"] == theirs["categories"]
        for key in ("images", "annotations"):
            assert ours[key][0].keys() == theirs[key][0].keys()
            types = {k: type(v) for k, v in ours[key][0].items()}
            assert types == {k: type(v) for k, v in theirs[key][0].items()}
            assert ours[key][0]["id"] == theirs[key][0]["id"]
        code = theirs["annotations"][0]["segmentation"]
        again = coco_mask.encode(np.asfortranarray(coco_mask.decode(code)))
        assert again["counts"].decode() == code["counts"]
        assert ours["images"][0]["file_name"] == theirs["images"][0]["file_name"]


def keys_of_the_page(folder: Path) -> list[str]:
    """The overrides that the page gives, with the data in another folder."""
    (block,) = re.findall(r"^    NUCLEI=\"(.*?)\"$", PAGE, re.DOTALL | re.MULTILINE)
    return [text.replace("datasets/nuclei", str(folder)) for text in block.split()]


def test_the_rows_and_their_rpn_are_planned_on_nuclei(
    script: ModuleType, source: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "nuclei"
    script.convert(source, folder)
    keys = keys_of_the_page(folder)
    names = [k.replace("=nuclei_", "=nuclei_planned_") for k in keys]  # of this test
    plan = make_plan(choose_rows(find_tables(["2c"])), "mini", (0, 1, 2), names)

    def data(job: Job) -> list[Any]:
        loaders = (job.cfg.dataloader.train, job.cfg.dataloader.test)
        sizes = [n.mapper.augmentations[0] for n in loaders]
        names = [n.dataset.names for n in loaders]
        return [(n, *s.short_edge_length, s.max_size) for n, s in zip(names, sizes, strict=True)]

    expected = [("nuclei_planned_train", 512, 853), ("nuclei_planned_val", 512, 853)]
    rows = [job for row in plan.rows for job in row.jobs.values()]
    assert len(rows) == 15
    assert all(job.cfg.model.roi_heads.num_classes == 1 and data(job) == expected for job in rows)
    rpns = {job.folder: job for row in rows for key, job in row.inputs if key == "proposals"}
    assert sorted(job.seed for job in rpns.values()) == [0, 1], "shared by rows and seeds"
    assert all(data(job) == expected for job in rpns.values())
    begun = {job for row in rows for key, job in row.inputs if key == "init_from"}
    assert {job.config for job in begun} == {"pretrain/r50"}
    assert all(job.overrides == () for job in begun), "the backbone of the generated data's rows"


def test_the_loader_reads_it(script: ModuleType, source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "nuclei"
    script.convert(source, folder)
    json_file, images = folder / "annotations" / "val.json", folder / "val"
    dicts = get_test_dicts("nuclei_read_val", json=str(json_file), image_root=str(images))
    assert [len(d["annotations"]) for d in dicts] == [2, 2]


def test_commands_of_the_page_can_be_given() -> None:
    commands = re.findall(r"^    python tools/run_table\.py (.*?[^\\])$", PAGE, re.DOTALL | re.M)
    assert len(commands) >= 4
    tables = []
    for text in commands:
        words = shlex.split(text.replace("\\\n", " ").replace("$NUCLEI", "train.draw=0"))
        args = parse_args(words)
        tables += [word for word in args.tables if "/" not in word]
        assert args.profile == "mini"
    assert find_tables(tables) == ["2c", "2d", "text-4.2-fpn-roipool"]
