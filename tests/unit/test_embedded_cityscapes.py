"""The embedded Cityscapes data set: the official layout, and files that agree with each other."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from cityscapesscripts.evaluation.instances2dict import instances2dict
from cityscapesscripts.helpers.labels import labels, name2label
from cityscapesscripts.preparation.json2instanceImg import json2instanceImg
from cityscapesscripts.preparation.json2labelImg import json2labelImg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from mask_rcnn_embedded.cityscapes import (
    CITIES,
    DATA_SET,
    FULL_SPEC,
    SPLITS,
    THING_CLASSES,
    TINY_SPEC,
    CityscapesSpec,
    ensure_generated,
    generate,
    is_complete,
)
from mask_rcnn_embedded.cityscapes.data_set import file_names
from mask_rcnn_embedded.cityscapes.scene import back_to_front, outline, render
from mask_rcnn_embedded.cityscapes.stats import measure
from mask_rcnn_embedded.cityscapes.street import Element
from mask_rcnn_embedded.command_line import main
from mask_rcnn_embedded.drawing.camera import (
    Camera,
    box,
    project_body,
    shear_top,
    to_world,
    wheel,
)
from mask_rcnn_repro.errors import DataError

MICRO = dataclasses.replace(TINY_SPEC, name="micro", num_train=2, num_val=1, num_test=1)
CAMERA = Camera(width=400, height=200, focal=400.0, horizon=80.0, elevation=1.5)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("cityscapes") / "tiny", TINY_SPEC, 1)


@pytest.fixture(scope="module")
def polygons(root: Path) -> dict[str, dict[str, Any]]:
    """Content of the polygon files by stem."""
    found = {}
    for path in sorted(root.glob("gtFine/*/*/*_gtFine_polygons.json")):
        found[path.name.replace("_gtFine_polygons.json", "")] = json.loads(path.read_text())
    return found


def instance_ids(root: Path, stem: str) -> np.ndarray:
    (path,) = root.glob(f"gtFine/*/*/{stem}_gtFine_instanceIds.png")
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert image.dtype == np.uint16 and image.ndim == 2
    return image


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


# ---------------------------------------------------------------- layout


def test_official_layout(root: Path) -> None:
    expected = {"manifest.json"}
    for split in SPLITS:
        stems = [TINY_SPEC.stem(split, index) for index in range(TINY_SPEC.num_images(split))]
        assert len(set(stems)) == len(stems)
        assert {stem.split("_")[0] for stem in stems} == set(CITIES[split])
        for stem in stems:
            city, sequence, frame = stem.split("_")
            assert len(sequence) == len(frame) == 6 and (sequence + frame).isdigit()
            expected.add(f"leftImg8bit/{split}/{city}/{stem}_leftImg8bit.png")
            for kind in ("instanceIds.png", "labelIds.png", "polygons.json"):
                if split != "test":  # pictures alone
                    expected.add(f"gtFine/{split}/{city}/{stem}_gtFine_{kind}")
    assert set(files(root)) == expected
    cities = [city for split in SPLITS for city in CITIES[split]]
    assert len(set(cities)) == len(cities)


def test_classes_are_those_of_cityscapesscripts() -> None:
    official = sorted(
        (x for x in labels if x.hasInstances and not x.ignoreInEval), key=lambda x: x.id
    )
    assert tuple(label.name for label in official) == THING_CLASSES


def test_formats(root: Path) -> None:
    for path in root.rglob("*.png"):
        image = Image.open(path)
        assert image.size == (192, 96)
        if "leftImg8bit" in path.name:
            assert image.mode == "RGB"
            assert np.asarray(image).std() > 15  # a picture, not a plain area
        else:
            expected = np.uint16 if "instanceIds" in path.name else np.uint8
            assert cv2.imread(str(path), cv2.IMREAD_UNCHANGED).dtype == expected


def test_no_picture_occurs_twice(root: Path) -> None:
    thumbs = []
    for path in sorted(root.rglob("*_leftImg8bit.png")):
        small = cv2.resize(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), (24, 12))
        thumbs.append(small.astype(np.float32).reshape(-1))
    stack = np.stack(thumbs)
    distance = np.abs(stack[:, None] - stack[None]).mean(axis=2) + 1e3 * np.eye(len(stack))
    assert len(stack) == 22 and distance.min() > 5.0


# ---------------------------------------------------------------- annotations


def test_id_images_are_what_the_official_scripts_make_of_the_polygons(
    root: Path, tmp_path: Path
) -> None:
    found = sorted(root.glob("gtFine/*/*/*_polygons.json"))
    assert len(found) == 18
    for path in found:
        for kind, make in (("instanceIds", json2instanceImg), ("labelIds", json2labelImg)):
            made = tmp_path / f"{kind}.png"
            make(str(path), str(made))
            stored = path.with_name(path.name.replace("polygons.json", f"{kind}.png"))
            assert np.array_equal(np.asarray(Image.open(made)), np.asarray(Image.open(stored)))


def test_ids_follow_from_the_labels(root: Path, polygons: dict[str, dict[str, Any]]) -> None:
    """Instance ids are label id * 1000 + number, groups and the rest plain label ids."""
    for stem, content in polygons.items():
        ids = instance_ids(root, stem)
        (path,) = root.glob(f"gtFine/*/*/{stem}_gtFine_labelIds.png")
        label_ids = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(np.where(ids >= 1000, ids // 1000, ids), label_ids)
        singles = [o["label"] for o in content["objects"] if o["label"] in THING_CLASSES]
        allowed = {
            name2label[name].id * 1000 + k
            for name in set(singles)
            for k in range(singles.count(name))
        }
        assert set(np.unique(ids[ids >= 1000]).tolist()) == allowed  # every instance is visible
        groups = {o["label"] for o in content["objects"] if o["label"].endswith("group")}
        plain = {name2label[g.removesuffix("group")].id for g in groups}
        thing_ids = {name2label[name].id for name in THING_CLASSES}
        assert set(np.unique(ids).tolist()) & thing_ids <= plain


def test_polygon_files_have_the_official_fields(polygons: dict[str, dict[str, Any]]) -> None:
    for content in polygons.values():
        assert set(content) == {"imgHeight", "imgWidth", "objects"}
        assert (content["imgHeight"], content["imgWidth"]) == (96, 192)
        for item in content["objects"]:
            assert set(item) == {"label", "polygon"}
            assert item["label"].removesuffix("group") in name2label
            points = np.array(item["polygon"])
            assert points.ndim == 2 and len(points) >= 3 and points.shape[1] == 2
            assert points.dtype.kind == "i"
            assert (points >= 0).all() and (points < [192, 96]).all()


@pytest.mark.parametrize("split", ["train", "val"])
def test_official_reader_finds_every_class(root: Path, split: str) -> None:
    paths = [str(p) for p in sorted(root.glob(f"gtFine/{split}/*/*_instanceIds.png"))]
    found = instances2dict(paths)
    sizes: dict[str, list[int]] = {name: [] for name in THING_CLASSES}
    for instances in found.values():
        for name in THING_CLASSES:
            sizes[name] += [i["pixelCount"] for i in instances[name] if i["instID"] >= 1000]
    for name in THING_CLASSES:
        assert sizes[name], name
        assert max(sizes[name]) >= 100, name  # the official evaluation counts it
    stats = measure(root, split)
    assert {k: v[0] for k, v in stats["classes"].items()} == {k: len(v) for k, v in sizes.items()}


def test_groups_and_other_regions_occur(root: Path, polygons: dict[str, dict[str, Any]]) -> None:
    seen: set[str] = set()
    group_pixels = 0
    for stem, content in polygons.items():
        seen |= {item["label"] for item in content["objects"]}
        ids = instance_ids(root, stem)
        group_pixels += int(np.isin(ids, [name2label[n].id for n in THING_CLASSES]).sum())
        assert np.count_nonzero(ids == 0) < 0.01 * ids.size  # hardly anything is unlabelled
    assert len({label for label in seen if label.endswith("group")}) >= 2
    assert group_pixels > 100
    assert seen >= {
        "road", "sidewalk", "building", "sky", "vegetation", "pole", "traffic sign",
        "ego vehicle", "out of roi", "rectification border", "rail track", "parking",
    }  # fmt: skip


def test_what_is_hidden_has_been_taken_out(root: Path, polygons: dict[str, dict[str, Any]]) -> None:
    shares = []
    for stem, content in polygons.items():
        ids = instance_ids(root, stem)
        numbers: dict[str, int] = {}
        for item in content["objects"]:
            name = item["label"]
            if name not in THING_CLASSES:
                continue
            number = numbers.get(name, 0)
            numbers[name] = number + 1
            visible = np.count_nonzero(ids == name2label[name].id * 1000 + number)
            alone = np.zeros(ids.shape, np.uint8)
            cv2.fillPoly(alone, [np.array(item["polygon"], np.int32)], 1)
            assert visible >= TINY_SPEC.min_pixels
            shares.append(visible / np.count_nonzero(alone))
    assert min(shares) > TINY_SPEC.min_visible - 0.02
    assert np.mean(np.array(shares) < 0.9) > 0.15  # things do hide each other


def test_riders_sit_on_cycles(polygons: dict[str, dict[str, Any]]) -> None:
    riders = 0
    for content in polygons.values():
        boxes: dict[str, list[np.ndarray]] = {}
        for item in content["objects"]:
            points = np.array(item["polygon"])
            corners = np.concatenate([points.min(axis=0), points.max(axis=0)])
            boxes.setdefault(item["label"], []).append(corners)
        cycles = boxes.get("bicycle", []) + boxes.get("motorcycle", [])
        for rider in boxes.get("rider", []):
            # The rider's hips are above the lower half of a machine.
            assert any(
                c[0] - 2 < 0.5 * (rider[0] + rider[2]) < c[2] + 2
                and c[1] - 3 < rider[3] <= c[3] + 3
                and rider[1] < c[1]
                for c in cycles
            )
            riders += 1
    assert riders >= 10


def test_labels_lie_where_the_picture_shows_things() -> None:
    """Brightness changes at outlines of vehicles much more than a few pixels inside of them."""
    inside, border = [], []
    for index in range(6):
        scene = render(FULL_SPEC, "val", index)
        grey = cv2.cvtColor(scene.image, cv2.COLOR_BGR2GRAY).astype(np.float32)
        slope = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
        for item in scene.objects:
            if item["label"] not in ("car", "truck", "bus", "train"):
                continue
            mask = np.zeros(grey.shape, np.uint8)
            cv2.fillPoly(mask, [np.array(item["polygon"], np.int32)], 1)
            ring = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
            core = cv2.erode(mask, np.ones((9, 9), np.uint8))
            if core.any():
                border.append(float(slope[ring > 0].mean()))
                inside.append(float(slope[core > 0].mean()))
    assert len(border) > 15
    assert np.mean(border) > 1.5 * np.mean(inside)


def test_things_farther_up_the_road_are_smaller(polygons: dict[str, dict[str, Any]]) -> None:
    feet, heights = [], []
    for content in polygons.values():
        horizon_unknown = 96 * 0.42
        for item in content["objects"]:
            points = np.array(item["polygon"])
            low, high = points.min(axis=0), points.max(axis=0)
            if item["label"] == "person" and low[1] > 2 and high[1] < 85 and low[0] > 2:
                feet.append(high[1] - horizon_unknown)
                heights.append(high[1] - low[1])
    assert len(feet) > 10
    assert np.corrcoef(feet, heights)[0, 1] > 0.75


# ---------------------------------------------------------------- outlines


@given(st.integers(0, 2**32 - 1), st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_outline_gives_back_the_mask(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    mask = np.zeros((60, 90), np.uint8)
    for _ in range(count):  # overlapping ellipses around the middle: one piece
        size = (int(rng.integers(4, 40)), int(rng.integers(4, 28)))
        cv2.ellipse(mask, (45, 30), size, float(rng.uniform(0, 180)), 0, 360, 1, -1)
    points = outline(mask > 0)
    assert points is not None
    drawn = Image.new("L", (90, 60))
    ImageDraw.Draw(drawn).polygon([(int(x), int(y)) for x, y in points], fill=1)
    found = np.asarray(drawn)
    assert (found & mask).sum() / (found | mask).sum() > 0.93


def test_outline_of_a_rectangle_is_exact() -> None:
    mask = np.zeros((20, 30), bool)
    mask[4:10, 5:21] = True
    points = outline(mask)
    assert points is not None
    assert sorted(map(tuple, points.tolist())) == [(5, 4), (5, 9), (20, 4), (20, 9)]


def test_outline_joins_pieces_and_fills_holes() -> None:
    mask = np.zeros((20, 40), bool)
    mask[4:16, 4:16] = True
    mask[8:12, 8:12] = False
    mask[4:16, 19:30] = True
    points = outline(mask)
    assert points is not None
    drawn = np.zeros(mask.shape, np.uint8)
    cv2.fillPoly(drawn, [points.astype(np.int32)], 1)
    assert drawn[mask].mean() > 0.98  # both pieces
    assert drawn[10, 10] == 1 and drawn[10, 17] == 1  # the hole and the gap
    assert drawn[:, 33:].sum() == 0


def test_outline_of_nothing() -> None:
    assert outline(np.zeros((8, 8), bool)) is None
    speck = np.zeros((8, 8), bool)
    speck[3, 3] = True
    assert outline(speck) is None


# ---------------------------------------------------------------- perspective


def test_projection_by_hand() -> None:
    points = np.array([[0.0, 10.0, 1.5], [2.0, 10.0, 0.0], [-1.0, 20.0, 3.0]])
    # u = 200 + 400 X / Y, v = 80 + 400 (1.5 - Z) / Y
    assert np.allclose(CAMERA.project(points), [[200, 80], [280, 140], [180, 50]])
    assert CAMERA.scale(8.0) == 50.0


def test_body_axes() -> None:
    points = np.array([[2.0, 1.0, 0.5]])  # two metres forward, one to the left
    position = np.array([3.0, 10.0])
    assert np.allclose(to_world(points, position, 0.0), [[2.0, 12.0, 0.5]])
    assert np.allclose(to_world(points, position, np.pi / 2), [[5.0, 11.0, 0.5]])


def test_normals_point_outward() -> None:
    body = box(-2.0, 3.0, 1.0, 0.5, 2.0, (0, 1, 2))
    outward = {"left": (0, 1, 0), "right": (0, -1, 0), "front": (1, 0, 0), "back": (-1, 0, 0)}
    outward["top"] = (0, 0, 1)
    for name, face in body.items():
        a, b, c = face.points[:3]
        normal = np.cross(b - a, c - b)
        assert np.allclose(normal / np.linalg.norm(normal), outward[name]), name
    for side in (1.0, -1.0):
        a, b, c = wheel(0.0, side, 0.4, (0, 1)).points[:3]
        assert np.sign(np.cross(b - a, c - b)[1]) == side


def test_a_body_shows_the_sides_that_face_the_camera() -> None:
    """Ahead to the left and driving away: its back and its right side are seen, not the roof."""
    body = box(-2.0, 2.0, 0.9, 0.2, 1.8, (10, 11, 12))
    body["front"].patch(0.2, 0.8, 0.2, 0.8, 20)
    body["back"].patch(0.2, 0.8, 0.2, 0.8, 21)
    parts = project_body([[list(body.values())]], CAMERA, np.array([-4.0, 12.0]), 0.0)
    assert sorted(part.tone for part in parts) == [10, 11, 21]
    behind = project_body([[list(body.values())]], CAMERA, np.array([0.0, -12.0]), 0.0)
    assert behind == []
    crossing = project_body([[list(body.values())]], CAMERA, np.array([0.0, 12.0]), np.pi / 2)
    assert [part.tone for part in crossing] == [10]  # the right side alone
    (side,) = crossing
    # 4 m wide at 12 - 0.9 m: 400 * 4 / 11.1 pixels
    assert np.ptp(side.polygon[:, 0]) == pytest.approx(400 * 4 / 11.1, rel=1e-4)


def test_sloping_tops() -> None:
    body = shear_top(box(-2.0, 2.0, 1.0, 0.0, 1.0, (0, 0, 0)), 0.5, -0.75, 0.8)
    top = body["top"].points
    assert sorted(set(top[:, 0].round(6))) == [-1.5, 1.25]
    assert np.allclose(np.abs(top[:, 1]), 0.8)
    assert body["front"].points[0, 0] == 2.0 and body["front"].points[2, 0] == 1.25


def test_what_stands_behind_is_drawn_first() -> None:
    def element(name: str, *footprint: float) -> Element:
        x0, y0, x1, y1 = footprint
        return Element(name, None, (x0, y0, x1, y1))  # type: ignore[arg-type]

    house = element("house", 6.0, -3.0, 16.0, 15.0)  # begins behind the camera
    walker = element("walker", 5.0, 10.0, 5.5, 10.4)  # on the pavement before the house
    tram = element("tram", -5.0, 8.0, -2.5, 30.0)
    beyond = element("beyond", -8.0, 19.0, -7.5, 19.4)  # the tram is between, yet begins closer
    before = element("before", -1.9, 12.0, -1.4, 12.4)  # beside the tram's middle, on our side
    order = [e.label for e in back_to_front([walker, tram, house, before, beyond])]
    assert order.index("house") < order.index("walker")
    assert order.index("beyond") < order.index("tram") < order.index("before")


def test_what_shares_a_place_keeps_its_order() -> None:
    spot = (2.0, 9.0, 2.4, 9.4)
    pole, sign = (Element(name, None, spot) for name in ("pole", "sign"))  # type: ignore[arg-type]
    assert [e.label for e in back_to_front([pole, sign])] == ["pole", "sign"]


# ---------------------------------------------------------------- determinism


def test_processes_do_not_matter(tmp_path: Path) -> None:
    one = files(generate(tmp_path / "one", MICRO, 1))
    assert one == files(generate(tmp_path / "two", MICRO, 2))
    assert len(one) == 3 * 4 + 1 + 1


def test_another_process_gives_the_same_bytes(root: Path) -> None:
    code = (
        "import hashlib\n"
        "from mask_rcnn_embedded.cityscapes import TINY_SPEC\n"
        "from mask_rcnn_embedded.cityscapes.scene import render\n"
        "print(hashlib.sha256(render(TINY_SPEC, 'val', 3).image.tobytes()).hexdigest())\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "7"}
    run = subprocess.run(
        [sys.executable, "-c", code], check=True, env=env, capture_output=True, text=True
    )
    stored = cv2.imread(str(root / file_names(TINY_SPEC, "val", 3)["image"]))
    assert run.stdout.strip() == hashlib.sha256(stored.tobytes()).hexdigest()


def test_a_picture_does_not_depend_on_how_many_there_are(root: Path) -> None:
    stored = cv2.imread(str(root / file_names(TINY_SPEC, "train", 2)["image"]))
    more = dataclasses.replace(TINY_SPEC, num_train=500)
    assert np.array_equal(render(more, "train", 2).image, stored)
    assert file_names(more, "train", 2) == file_names(TINY_SPEC, "train", 2)


def test_seed_split_and_index_each_change_the_picture() -> None:
    def draw(spec: CityscapesSpec, split: str, index: int) -> float:
        return float(spec.image_rng(split, index).random())

    other = dataclasses.replace(TINY_SPEC, seed=1)
    draws = [draw(s, k, i) for s in (TINY_SPEC, other) for k in SPLITS for i in range(5)]
    assert len(set(draws)) == len(draws)


def test_fingerprint_follows_content_and_not_the_name() -> None:
    assert dataclasses.replace(FULL_SPEC, name="x").fingerprint() == FULL_SPEC.fingerprint()
    changes = [
        {"seed": 1}, {"num_train": 10}, {"num_val": 10}, {"num_test": 1}, {"width": 500},
        {"featured": 2}, {"mean_cars": 1.0}, {"min_pixels": 10}, {"version": 10_000},
    ]  # fmt: skip
    prints = {dataclasses.replace(FULL_SPEC, **change).fingerprint() for change in changes}
    assert len(prints | {FULL_SPEC.fingerprint()}) == len(changes) + 1


@pytest.mark.parametrize(
    "change",
    [
        {"num_train": -1},
        {"num_test": 100_000},
        {"width": 3000},
        {"height": 20},
        {"seed": -1},
        {"featured": 7},
        {"min_pixels": 0},
        {"mean_persons": -0.5},
        {"min_visible": 1.5},
    ],
)
def test_impossible_specs_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(DataError, match=next(iter(change))):
        dataclasses.replace(FULL_SPEC, **change)  # type: ignore[arg-type]


def test_rare_classes_take_turns() -> None:
    featured = [FULL_SPEC.featured_classes(i) for i in range(60)]
    for name in ("train", "truck", "bus", "motorcycle"):
        assert sum(name in names for names in featured) == 10
    assert all(len(TINY_SPEC.featured_classes(i)) == 3 for i in range(6))
    with pytest.raises(DataError, match="nonsense"):
        FULL_SPEC.num_images("nonsense")


# ---------------------------------------------------------------- cache and command


def test_second_call_reuses_the_first_and_damage_is_repaired(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MASK_RCNN_REPRO_CACHE", str(tmp_path))
    made = ensure_generated(MICRO, 1)
    assert made == tmp_path / f"micro-{MICRO.fingerprint()}" and is_complete(made, MICRO)
    before = files(made)
    times = {p: p.stat().st_mtime_ns for p in made.rglob("*")}
    assert ensure_generated(MICRO, 1) == made
    assert {p: p.stat().st_mtime_ns for p in made.rglob("*")} == times
    next(made.glob("gtFine/train/*/*_instanceIds.png")).unlink()
    assert not is_complete(made, MICRO)
    assert files(ensure_generated(MICRO, 1)) == before
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == [made.name]


def test_a_cache_that_cannot_be_made_is_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MASK_RCNN_REPRO_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DataError, match=r"embedded Cityscapes.*MASK_RCNN_REPRO_CACHE"):
        ensure_generated(MICRO, 1)


def test_manifest_describes_what_was_written(root: Path) -> None:
    manifest = json.loads((root / "manifest.json").read_text())
    assert manifest["fingerprint"] == TINY_SPEC.fingerprint()
    assert manifest["images"] == {"train": 12, "val": 6, "test": 4}
    written = files(root)
    del written["manifest.json"]
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in written.items()}
    assert manifest["sha256"] == sums
    assert not is_complete(root, FULL_SPEC)


def test_generate_does_not_write_over_anything(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(DataError, match="not empty"):
        generate(tmp_path, MICRO, 1)
    assert files(tmp_path) == {"mine.txt": b"keep"}


def test_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(DATA_SET, "tiny", MICRO)
    made = tmp_path / "out"
    assert main(DATA_SET, ["--tiny", "--root", str(made), "--workers", "1", "--stats"]) == 0
    out = capsys.readouterr().out
    assert str(made) in out and "| pictures | 2 | | 1 | | |" in out
    assert main(DATA_SET, ["--tiny", "--root", str(made)]) == 2
    assert "not empty" in capsys.readouterr().err
    sheet = tmp_path / "sheet.png"
    assert main(DATA_SET, ["--tiny", "--sheet", str(sheet), "--split", "test", "--count", "1"]) == 0
    assert cv2.imread(str(sheet)).shape[1] == 1240


def test_sheet_shows_outlines(tmp_path: Path) -> None:
    plain = cv2.imread(str(DATA_SET.write_sheet(tmp_path / "p.png", MICRO, "train", 2, 0, False)))
    both = cv2.imread(str(DATA_SET.write_sheet(tmp_path / "b.png", MICRO, "train", 2, 0, True)))
    row = math.ceil(618 * 96 / 192)
    assert plain.shape[0] < both.shape[0] <= 2 * (row + 4)
    left, right = both[:row, :618], both[:row, 622:1240]
    assert np.array_equal(left, plain[:row, :618])
    assert (left != right).any(axis=2).mean() > 0.5
    with pytest.raises(DataError, match="sheet"):
        DATA_SET.write_sheet(tmp_path / "p.nonsense", MICRO, "val", 1)


def test_stats_of_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gtFine/val"):
        measure(tmp_path, "val")
