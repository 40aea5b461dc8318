"""The embedded data set: same bytes every time, and annotations that agree with the pictures."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO

from mask_rcnn_embedded import cache
from mask_rcnn_embedded.cache import embedded_root
from mask_rcnn_embedded.coco import (
    CATEGORIES,
    DATA_SET,
    FULL_SPEC,
    SPLITS,
    THING_CLASSES,
    TINY_SPEC,
    EmbeddedSpec,
    ensure_generated,
    generate,
    is_complete,
)
from mask_rcnn_embedded.coco import generate as generate_function
from mask_rcnn_embedded.coco.annotate import annotate, region_polygons, uncompressed_rle
from mask_rcnn_embedded.coco.scene import MIN_VISIBLE_AREA, Scene, render
from mask_rcnn_embedded.coco.stats import measure
from mask_rcnn_embedded.command_line import main
from mask_rcnn_embedded.drawing.kinds import KINDS, typical_color, typical_texture
from mask_rcnn_embedded.drawing.person import KEYPOINT_NAMES, make_person
from mask_rcnn_embedded.drawing.solid import SS, rasterize
from mask_rcnn_embedded.drawing.textures import random_color
from mask_rcnn_embedded.drawing.things import make_object, make_solid
from mask_rcnn_repro.errors import DataError

# Full-size pictures, few of them: enough for statistics, made in two seconds.
SAMPLE = dataclasses.replace(FULL_SPEC, name="sample", num_train=100, num_val=20, num_unlabeled=4)
MICRO = dataclasses.replace(TINY_SPEC, name="micro", num_train=3, num_val=2, num_unlabeled=1)

assert generate_function is generate


@pytest.fixture(scope="module")
def sample_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("embedded") / "sample", SAMPLE, 1)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [render(FULL_SPEC, "val", index)[0] for index in range(20)]


def load(root: Path, name: str) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(root / "annotations" / name))


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


# ---------------------------------------------------------------- determinism


def test_same_bytes_with_one_and_two_processes(tmp_path: Path) -> None:
    one = files(generate(tmp_path / "one", TINY_SPEC, 1))
    two = files(generate(tmp_path / "two", TINY_SPEC, 2))
    assert one == two
    assert len(one) == 24 + 12 + 8 + 5 + 1


def test_another_process_gives_the_same_bytes(tmp_path: Path) -> None:
    here = files(generate(tmp_path / "here", MICRO, 1))
    code = (
        "import dataclasses, sys\n"
        "from mask_rcnn_embedded.coco import TINY_SPEC, generate\n"
        "spec = dataclasses.replace("
        "TINY_SPEC, name='micro', num_train=3, num_val=2, num_unlabeled=1)\n"
        "generate(sys.argv[1], spec, 1)\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "there")], check=True, env=env)
    assert files(tmp_path / "there") == here


def test_the_order_of_drawing_does_not_matter() -> None:
    first = render(TINY_SPEC, "train", 5)[0].image
    render(TINY_SPEC, "val", 0)
    assert np.array_equal(render(TINY_SPEC, "train", 5)[0].image, first)


def test_seed_split_and_index_each_change_the_picture() -> None:
    def draw(spec: EmbeddedSpec, split: str, index: int) -> float:
        return float(spec.image_rng(split, index).random())

    other = dataclasses.replace(TINY_SPEC, seed=1)
    draws = [draw(s, k, i) for s in (TINY_SPEC, other) for k in SPLITS for i in range(5)]
    assert len(set(draws)) == len(draws)


def test_fingerprint_follows_content_and_not_the_name() -> None:
    assert dataclasses.replace(FULL_SPEC, name="x").fingerprint() == FULL_SPEC.fingerprint()
    for change in (
        {"seed": 1},
        {"num_train": 10},
        {"num_val": 10},
        {"num_unlabeled": 1},
        {"short_side": 330},
        {"max_long_side": 500},
        {"version": 10_000},
        {"crowd_fraction": 0.5},
    ):
        changed = dataclasses.replace(FULL_SPEC, **change)
        assert changed.fingerprint() != FULL_SPEC.fingerprint(), change


@pytest.mark.parametrize(
    "change",
    [
        {"num_train": -1},
        {"num_val": 100_000},
        {"short_side": 600},
        {"short_side": 20},
        {"seed": -1},
        {"crowd_fraction": 1.5},
    ],
)
def test_impossible_specs_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(DataError, match=next(iter(change))):
        dataclasses.replace(FULL_SPEC, **change)


# ---------------------------------------------------------------- schema


def test_schema(sample_root: Path) -> None:
    image_ids: list[int] = []
    for split in SPLITS:
        names = (
            ["image_info_unlabeled.json"]
            if split == "unlabeled"
            else [f"instances_{split}.json", f"person_keypoints_{split}.json"]
        )
        for name in names:
            content = json.loads((sample_root / "annotations" / name).read_text())
            assert {"info", "licenses", "images", "categories"} <= set(content)
            assert ("annotations" in content) == (split != "unlabeled")
            assert len(content["images"]) == SAMPLE.num_images(split)
            ids = {image["id"] for image in content["images"]}
            annotations = content.get("annotations", [])
            assert len({a["id"] for a in annotations}) == len(annotations)
            categories = {c["id"] for c in content["categories"]}
            for a in annotations:
                assert a["image_id"] in ids and a["category_id"] in categories
                assert a["iscrowd"] in (0, 1)
                assert isinstance(a["segmentation"], dict if a["iscrowd"] else list)
                if not a["iscrowd"]:
                    assert all(len(p) >= 6 and len(p) % 2 == 0 for p in a["segmentation"])
                assert ("keypoints" in a) == name.startswith("person")
        image_ids += [image["id"] for image in content["images"]]
        on_disk = {p.name for p in (sample_root / split).iterdir()}
        assert on_disk == {image["file_name"] for image in content["images"]}
    assert len(set(image_ids)) == len(image_ids)  # unique across splits too


def test_categories_have_gaps_like_cocos() -> None:
    ids = [category["id"] for category in CATEGORIES]
    assert ids == sorted(set(ids)) and ids != list(range(1, len(ids) + 1))
    assert THING_CLASSES[0] == "person" and ids[0] == 1 and len(ids) == 18


def test_person_category_names_cocos_keypoints(sample_root: Path) -> None:
    coco = load(sample_root, "person_keypoints_val.json")
    (person,) = coco.loadCats(coco.getCatIds())
    assert person["name"] == "person"
    assert person["keypoints"] == list(KEYPOINT_NAMES) and len(person["keypoints"]) == 17
    assert person["skeleton"][0] == [16, 14] and len(person["skeleton"]) == 19
    assert all(1 <= k <= 17 for pair in person["skeleton"] for k in pair)


def test_images_decode_in_both_formats_with_the_size_of_the_json(sample_root: Path) -> None:
    suffixes, shapes = set(), set()
    for split in SPLITS:
        name = "image_info_unlabeled" if split == "unlabeled" else f"instances_{split}"
        for image in json.loads((sample_root / "annotations" / f"{name}.json").read_text())[
            "images"
        ]:
            picture = cv2.imread(str(sample_root / split / image["file_name"]))
            assert picture.shape == (image["height"], image["width"], 3)
            assert 320 <= min(picture.shape[:2]) <= 384 and max(picture.shape[:2]) <= 512
            assert picture.std() > 8  # a picture, not a plain area
            suffixes.add(Path(image["file_name"]).suffix)
            shapes.add(np.sign(image["width"] - image["height"]))
    assert suffixes == {".jpg", ".png"}
    assert {-1, 1} <= shapes  # portrait and landscape


def test_no_picture_occurs_twice(sample_root: Path) -> None:
    thumbs = []
    for split in SPLITS:
        for path in sorted((sample_root / split).iterdir()):
            small = cv2.resize(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), (16, 16))
            thumbs.append(small.astype(np.float32).reshape(-1))
    stack = np.stack(thumbs)
    distance = np.abs(stack[:, None] - stack[None]).mean(axis=2) + 1e3 * np.eye(len(stack))
    assert distance.min() > 4.0


# ---------------------------------------------------------------- masks


def test_polygon_area_and_box_agree_through_pycocotools(sample_root: Path) -> None:
    coco = load(sample_root, "instances_train.json")
    checked, deviations, offsets = 0, [], []
    for a in coco.loadAnns(coco.getAnnIds(iscrowd=False)):
        image = coco.loadImgs(a["image_id"])[0]
        mask = coco.annToMask(a)
        assert mask.shape == (image["height"], image["width"])
        perimeter = float(cv2.Laplacian(mask, cv2.CV_8U).astype(bool).sum()) + 1.0
        excess = float(mask.sum()) - a["area"]
        assert abs(excess) < 0.2 * perimeter + 3.0
        offsets.append(excess / perimeter)  # in pixels, by which the outline lies too far out
        x, y, w, h = a["bbox"]
        assert x >= 0 and y >= 0 and w > 0 and h > 0
        assert x + w <= image["width"] and y + h <= image["height"]
        points = np.concatenate([np.array(p).reshape(-1, 2) for p in a["segmentation"]])
        low, high = points.min(axis=0), points.max(axis=0)
        assert np.allclose([x, y, x + w, y + h], [*low, *high], atol=0.011)
        rows, cols = np.nonzero(mask)
        tight = [cols.min(), rows.min(), cols.max() + 1, rows.max() + 1]
        deviations.append(np.abs(np.array([x, y, x + w, y + h]) - tight))
        assert a["area"] >= 0.8 * MIN_VISIBLE_AREA
        checked += 1
    assert abs(np.mean(offsets)) < 0.06
    # Pointed ends miss the centres of the pixels in which they end, those of large things by most.
    assert np.mean(deviations) < 0.4
    assert np.quantile(deviations, 0.995) < 3.0 and np.max(deviations) < 8.0
    assert checked > 300


def test_polygons_give_back_the_visible_raster(scenes: list[Scene]) -> None:
    worst = {"small": 1.0, "other": 1.0}
    for scene in scenes:
        height, width = scene.image.shape[:2]
        blocks = scene.owner.reshape(height, SS, width, SS)
        for k, (solid, raster) in enumerate(zip(scene.solids, scene.rasters, strict=True)):
            if solid.category is None or solid.crowd:
                continue
            truth = (blocks == k + 1).mean(axis=(1, 3)) >= 0.5
            window = (scene.owner[raster.fine_window()] == k + 1).astype(np.uint8)
            polygons, area = region_polygons(window)
            offset = np.array([raster.x0, raster.y0])
            flat = [(p + offset).reshape(-1).tolist() for p in polygons]
            drawn = mask_util.decode(mask_util.merge(mask_util.frPyObjects(flat, height, width)))
            iou = (truth & (drawn > 0)).sum() / (truth | (drawn > 0)).sum()
            kind = "small" if area < 32**2 else "other"
            worst[kind] = min(worst[kind], float(iou))
    assert worst["small"] > 0.9
    assert worst["other"] > 0.95


def test_instances_of_an_image_do_not_overlap(sample_root: Path) -> None:
    coco = load(sample_root, "instances_val.json")
    for image_id in coco.getImgIds():
        anns = coco.loadAnns(coco.getAnnIds(imgIds=[image_id]))
        if not anns:
            continue
        total = np.sum([coco.annToMask(a) for a in anns], axis=0)
        # Only pixels on common borders may belong to two.
        inner = cv2.erode((total > 1).astype(np.uint8), np.ones((3, 3), np.uint8))
        assert inner.sum() == 0


def test_a_hole_is_cut_and_not_filled() -> None:
    mask = np.zeros((80, 80), np.uint8)
    cv2.circle(mask, (40, 40), 36, 1, -1)
    cv2.circle(mask, (40, 40), 18, 0, -1)
    polygons, area = region_polygons(mask)
    assert len(polygons) == 2
    assert area == pytest.approx(mask.sum() / SS**2)
    drawn = np.zeros((20, 20), np.uint8)
    for polygon in polygons:
        rle = mask_util.frPyObjects([polygon.reshape(-1).tolist()], 20, 20)
        drawn += mask_util.decode(mask_util.merge(rle))
    assert drawn.max() == 1  # the pieces touch and do not overlap
    assert drawn[10, 10] == 0 and drawn[10, 2] == 1


def test_an_occluder_splits_a_mask_into_parts() -> None:
    mask = np.zeros((40, 120), np.uint8)
    mask[4:36, 4:116] = 1
    mask[:, 56:64] = 0
    polygons, area = region_polygons(mask)
    assert len(polygons) == 2 and area == pytest.approx(mask.sum() / SS**2)
    boxes = sorted((p[:, 0].min(), p[:, 0].max()) for p in polygons)
    assert boxes == [(1.0, 14.0), (16.0, 29.0)]  # exact corners, in image pixels


def test_an_empty_mask_and_a_speck_give_nothing() -> None:
    assert region_polygons(np.zeros((16, 16), np.uint8)) == ([], 0.0)
    speck = np.zeros((16, 16), np.uint8)
    speck[4:8, 4:8] = 1  # one image pixel, below the two that a polygon needs
    assert region_polygons(speck) == ([], 0.0)


@given(st.integers(0, 2**32 - 1), st.integers(1, 13), st.integers(1, 13), st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_uncompressed_rle_is_what_pycocotools_reads(seed: int, h: int, w: int, p: float) -> None:
    mask = (np.random.default_rng(seed).random((h, w)) < p).astype(np.uint8)
    rle = uncompressed_rle(mask)
    assert sum(rle["counts"]) == h * w
    assert np.array_equal(mask_util.decode(mask_util.frPyObjects(rle, h, w)), mask)


def test_crowds(sample_root: Path) -> None:
    coco = load(sample_root, "instances_train.json")
    crowds = coco.loadAnns(coco.getAnnIds(iscrowd=True))
    assert 2 <= len(crowds) <= 20  # of 100 images
    for a in crowds:
        mask = coco.annToMask(a)
        assert mask.sum() == a["area"]
        assert list(mask_util.toBbox(coco.annToRLE(a))) == a["bbox"]
        others = coco.loadAnns(coco.getAnnIds(imgIds=[a["image_id"]], iscrowd=False))
        for other in others:
            assert (coco.annToMask(other) & mask).sum() < 0.12 * other["area"] + 4


# ---------------------------------------------------------------- keypoints


def test_keypoints_lie_in_the_image_and_visible_ones_on_the_mask(sample_root: Path) -> None:
    coco = load(sample_root, "person_keypoints_train.json")
    flags = np.zeros(3, int)
    for a in coco.loadAnns(coco.getAnnIds(iscrowd=False)):
        image = coco.loadImgs(a["image_id"])[0]
        points = np.array(a["keypoints"], float).reshape(17, 3)
        assert a["num_keypoints"] == (points[:, 2] > 0).sum()
        if a["bbox"][3] < 40:  # small persons have no labelled keypoints, as in COCO
            assert a["num_keypoints"] == 0
        grown = cv2.dilate(coco.annToMask(a), np.ones((3, 3), np.uint8))
        for x, y, v in points:
            assert v in (0, 1, 2)
            flags[int(v)] += 1
            if v == 0:
                assert (x, y) == (0, 0)
                continue
            assert 0 <= x <= image["width"] and 0 <= y <= image["height"]
            if v == 2:
                assert grown[min(int(y), image["height"] - 1), min(int(x), image["width"] - 1)]
    assert flags.min() > 100  # each flag occurs often
    assert flags[2] > flags[1]


def test_an_occluder_hides_keypoints() -> None:
    rng = np.random.default_rng(3)
    theme = [np.array([90.0, 120.0, 150.0], np.float32)] * 4
    person = make_solid(rng, "person", 40.0, theme)
    left, top, right, bottom = person.bounds()
    person.transform(np.eye(2), np.array([100.0 - (left + right) / 2, 80.0 - (top + bottom) / 2]))
    cover = make_solid(rng, "cup", 90.0, theme)
    left, top, right, bottom = cover.bounds()
    cover.transform(np.eye(2), np.array([100.0 - (left + right) / 2, 130.0 - (top + bottom) / 2]))

    def flags(solids: list) -> np.ndarray:
        rasters = [rasterize(s, 200, 160) for s in solids]
        owner = np.zeros((160 * SS, 200 * SS), np.uint8)
        for k, raster in enumerate(rasters):
            owner[raster.fine_window()][raster.labels > 0] = k + 1
        image = np.zeros((160, 200, 3), np.uint8)
        (found,) = [a for a in annotate(Scene(image, solids, rasters, owner)) if "keypoints" in a]
        return np.array(found["keypoints"]).reshape(17, 3)

    alone, hidden = flags([person]), flags([person, cover])
    assert np.array_equal(alone[:, :2], hidden[:, :2])  # the places stay
    lost = (alone[:, 2] == 2) & (hidden[:, 2] == 1)
    assert lost.sum() >= 3
    cup_mask = rasterize(cover, 200, 160)
    for (x, y, flag), before in zip(hidden, alone[:, 2], strict=True):
        row, col = int(y * SS) - cup_mask.y0 * SS, int(x * SS) - cup_mask.x0 * SS
        inside = (
            0 <= row < cup_mask.labels.shape[0]
            and 0 <= col < cup_mask.labels.shape[1]
            and cup_mask.labels[row, col] > 0
        )
        assert flag == (min(before, 1) if inside else before)


def test_left_and_right_are_the_persons_own() -> None:
    """From the front the left shoulder is to the right of the right one; from behind it is not."""
    seen = {True: [], False: []}
    for seed in range(300):
        shape = make_person(np.random.default_rng(seed))
        left, right = shape.keypoints[5], shape.keypoints[6]
        nose_hidden, eyes_hidden = shape.keypoint_hidden[0], shape.keypoint_hidden[1:3]
        width = left[0] - right[0]
        if abs(width) < 0.12:
            continue  # from the side
        if not eyes_hidden.any():
            seen[True].append(width > 0)
        elif nose_hidden:
            seen[False].append(width > 0)
    assert len(seen[True]) > 60 and np.mean(seen[True]) > 0.97
    assert len(seen[False]) > 30 and np.mean(seen[False]) < 0.03


def test_far_side_of_a_person_in_profile_is_hidden() -> None:
    one_sided = 0
    for seed in range(200):
        shape = make_person(np.random.default_rng(seed))
        ears = shape.keypoint_hidden[3:5]
        shoulders = shape.keypoint_hidden[5:7]
        assert not (ears.all() or shoulders.all())
        one_sided += bool(shoulders.any())
    assert 30 < one_sided < 150


# ---------------------------------------------------------------- statistics


def test_sizes_classes_and_counts_are_spread(sample_root: Path) -> None:
    stats = measure(sample_root)
    assert stats["images"] == 100
    assert 5.0 <= stats["per_image"] <= 7.0
    assert 0.12 <= stats["small"] <= 0.3
    assert 0.35 <= stats["medium"] <= 0.65
    assert 0.25 <= stats["large"] <= 0.5
    assert stats["multi_part"] > 0.1
    assert set(stats["classes"]) == set(THING_CLASSES)
    for name, (total, *_) in stats["classes"].items():
        assert total > 8, name
    visible, hidden = stats["keypoints"][2], stats["keypoints"][1]
    assert visible > hidden > 100


def test_nine_in_ten_things_have_the_colour_and_pattern_of_their_class() -> None:
    rng = np.random.default_rng(0)
    theme = [random_color(rng) for _ in range(4)]
    for category in ("star", "bottle", "car", "bicycle"):
        things = [make_object(rng, category, 60.0, theme)[0] for _ in range(200)]
        typical = [t for t in things if t.textures[0].name == typical_texture(category)]
        assert 165 <= len(typical) <= 198
        means = np.mean([t.palette[0, 0] for t in typical], axis=0)
        # a sixteenth of the others has that pattern, too, and colours vary and are clipped
        np.testing.assert_allclose(means, typical_color(category), atol=12.0)
        assert np.std([t.palette[0, 0] for t in typical], axis=0).max() < 30.0


def test_classes_differ_in_colour_or_pattern() -> None:
    looks = [(typical_color(kind), typical_texture(kind)) for kind in KINDS[:17]]
    for (color, texture), (other_color, other_texture) in itertools.combinations(looks, 2):
        assert texture != other_texture or np.abs(color - other_color).max() > 60.0
    assert ("person", *KINDS[:17]) == THING_CLASSES


def test_cache_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MASK_RCNN_REPRO_CACHE", str(tmp_path / "x"))
    assert embedded_root() == tmp_path / "x"
    monkeypatch.delenv("MASK_RCNN_REPRO_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    repo = Path(__file__).resolve().parents[2]
    fallback = tmp_path / ".cache" / "mask_rcnn_repro" / "embedded"
    assert embedded_root() in (repo / "datasets" / "embedded", fallback)
    monkeypatch.setattr(cache, "__file__", str(tmp_path / "a/b/c/d/e/f/cache.py"))
    assert embedded_root() == fallback


def test_second_call_reuses_the_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MASK_RCNN_REPRO_CACHE", str(tmp_path))
    root = ensure_generated(MICRO, 1)
    assert root == tmp_path / f"micro-{MICRO.fingerprint()}" and is_complete(root, MICRO)
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    assert ensure_generated(MICRO, 1) == root
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*")} == before
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == [root.name]


@pytest.mark.parametrize("victim", ["manifest.json", "annotations/instances_val.json", "val"])
def test_a_damaged_cache_is_made_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, victim: str
) -> None:
    monkeypatch.setenv("MASK_RCNN_REPRO_CACHE", str(tmp_path))
    root = ensure_generated(MICRO, 1)
    before = files(root)
    path = root / victim
    path = next(iter(path.iterdir())) if path.is_dir() else path
    path.unlink()
    assert not is_complete(root, MICRO)
    assert files(ensure_generated(MICRO, 1)) == before
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == [root.name]


def _race(barrier: object, root: str, lock: bool, queue: object) -> None:
    os.environ["MASK_RCNN_REPRO_CACHE"] = root
    if not lock:  # a file system without locks
        cache.file_lock = lambda path: contextlib.nullcontext(False)
    barrier.wait()
    queue.put(str(ensure_generated(MICRO, 1)))


@pytest.mark.parametrize("lock", [True, False])
def test_racing_processes_share_one_copy(tmp_path: Path, lock: bool) -> None:
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(3), context.Queue()
    workers = [
        context.Process(target=_race, args=(barrier, str(tmp_path), lock, queue)) for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    roots = {queue.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    (root,) = roots
    assert is_complete(Path(root), MICRO)
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == [Path(root).name]


def test_a_killed_run_leaves_nothing_that_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    slow = dataclasses.replace(MICRO, num_train=2000)
    code = (
        "import dataclasses\n"
        "from mask_rcnn_embedded.coco import TINY_SPEC, ensure_generated\n"
        "ensure_generated(dataclasses.replace("
        "TINY_SPEC, name='micro', num_train=2000, num_val=2, num_unlabeled=1), 1)\n"
    )
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "MASK_RCNN_REPRO_CACHE": str(tmp_path),
    }
    process = subprocess.Popen([sys.executable, "-c", code], env=env, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not list(tmp_path.glob("*.tmp-*/train/*.jpg")):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    target = tmp_path / f"micro-{slow.fingerprint()}"
    assert list(tmp_path.glob("*.tmp-*")) and not target.exists()
    # The next run (here a shorter one under the same name) clears up and finishes.
    monkeypatch.setenv("MASK_RCNN_REPRO_CACHE", str(tmp_path))
    fingerprint = slow.fingerprint()
    monkeypatch.setattr(EmbeddedSpec, "fingerprint", lambda self: fingerprint)
    assert is_complete(ensure_generated(MICRO, 1), MICRO)
    assert not list(tmp_path.glob("*.tmp-*"))


def test_a_cache_that_cannot_be_made_is_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MASK_RCNN_REPRO_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DataError, match="MASK_RCNN_REPRO_CACHE"):
        ensure_generated(MICRO, 1)


def test_generate_does_not_write_over_anything(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(DataError, match="not empty"):
        generate(tmp_path, MICRO, 1)
    assert files(tmp_path) == {"mine.txt": b"keep"}


def test_manifest_describes_what_was_written(tmp_path: Path) -> None:
    import hashlib

    root = generate(tmp_path / "m", MICRO, 1)
    manifest = json.loads((root / "manifest.json").read_text())
    assert manifest["fingerprint"] == MICRO.fingerprint()
    assert manifest["images"] == {"train": 3, "val": 2, "unlabeled": 1}
    for name, digest in manifest["sha256"]["annotations"].items():
        assert hashlib.sha256((root / "annotations" / name).read_bytes()).hexdigest() == digest
    parts = [hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted((root / "val").iterdir())]
    assert (
        hashlib.sha256("".join(parts).encode()).hexdigest() == manifest["sha256"]["images"]["val"]
    )


# ---------------------------------------------------------------- command and sheet


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "out"
    assert main(DATA_SET, ["--tiny", "--root", str(root), "--workers", "1", "--stats"]) == 0
    out = capsys.readouterr().out
    assert str(root) in out and "| images | 24 | 12 |" in out
    assert main(DATA_SET, ["--tiny", "--root", str(root)]) == 2  # not empty
    assert "not empty" in capsys.readouterr().err


def test_sheet_shows_annotations(tmp_path: Path) -> None:
    options = {"split": "train", "count": 3}
    plain, drawn = (
        cv2.imread(str(DATA_SET.write_sheet(tmp_path / name, TINY_SPEC, annotated=on, **options)))
        for name, on in (("p.png", False), ("a.png", True))
    )
    assert plain.shape == drawn.shape and plain.shape[0] >= 200
    assert (plain != drawn).any(axis=2).mean() > 0.02
    with pytest.raises(DataError, match="sheet"):
        DATA_SET.write_sheet(tmp_path / "p.nonsense", TINY_SPEC, **options)
