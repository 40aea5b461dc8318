"""Crops for pre-training and the things that they and the detection images are drawn of."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from mask_rcnn_embedded import coco, quickstart
from mask_rcnn_embedded.cityscapes.spec import THING_CLASSES as STREET_CLASSES
from mask_rcnn_embedded.coco.annotate import annotate
from mask_rcnn_embedded.coco.scene import compose
from mask_rcnn_embedded.coco.spec import OTHER_THINGS
from mask_rcnn_embedded.command_line import main
from mask_rcnn_embedded.crops import DATA_SET, FULL_SPEC, MANY_SPEC, TINY_SPEC, generate
from mask_rcnn_embedded.crops.data_set import MIN_VISIBLE, render
from mask_rcnn_embedded.crops.spec import CLASSES, SPLITS
from mask_rcnn_embedded.drawing.solid import SS, Solid, rasterize
from mask_rcnn_embedded.drawing.things import make_object
from mask_rcnn_repro.errors import DataError

THEME = [np.array([90.0, 120.0, 150.0], np.float32)] * 4


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


# ---------------------------------------------------------------- the files


def test_same_bytes_with_one_and_two_processes(tmp_path: Path) -> None:
    one, two = (files(generate(tmp_path / str(n), TINY_SPEC, n)) for n in (1, 2))
    assert one == two and len(one) == 60 + 30 + 1
    per_class = Counter(str(Path(name).parent) for name in one if name.endswith(".jpg"))
    assert per_class == {
        **{f"train/{name}": 2 for name in TINY_SPEC.classes},
        **{f"val/{name}": 1 for name in TINY_SPEC.classes},
    }
    assert len(set(one.values())) == len(one)  # no crop occurs twice
    for name, data in one.items():
        if name.endswith(".jpg"):
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
            assert image.shape == (64, 64, 3) and image.std() > 4


def test_a_missing_crop_makes_the_data_incomplete(tmp_path: Path) -> None:
    root = generate(tmp_path / "crops", TINY_SPEC, 1)
    assert DATA_SET.is_complete(root, TINY_SPEC)
    assert not DATA_SET.is_complete(root, dataclasses.replace(TINY_SPEC, seed=1))
    (root / TINY_SPEC.file_name("val", 29)).unlink()
    assert not DATA_SET.is_complete(root, TINY_SPEC)


def test_specs() -> None:
    assert len(CLASSES) == len(set(CLASSES)) == 60
    assert (FULL_SPEC.num_classes, FULL_SPEC.num_train) == (30, 20_000)
    assert (MANY_SPEC.num_classes, MANY_SPEC.num_train) == (60, 50_000)
    assert set(coco.THING_CLASSES) < set(FULL_SPEC.classes) < set(MANY_SPEC.classes)
    assert set(STREET_CLASSES) - {"rider"} < set(coco.THING_CLASSES)
    assert set(OTHER_THINGS) < set(CLASSES) - set(coco.THING_CLASSES)
    for change in ({"num_classes": 61}, {"num_classes": 0}, {"side": 8}):
        with pytest.raises(DataError, match="not allowed"):
            dataclasses.replace(TINY_SPEC, **change)
    for change in ({"num_classes": 31}, {"side": 80}, {"seed": 1}, {"num_val": 1}):
        assert dataclasses.replace(TINY_SPEC, **change).fingerprint() != TINY_SPEC.fingerprint()


def test_no_crop_has_the_seed_of_a_detection_image() -> None:
    draws = [
        float(spec.image_rng(split, index).random())
        for spec, splits in ((FULL_SPEC, SPLITS), (coco.FULL_SPEC, coco.SPLITS))
        for split in splits
        for index in range(50)
    ]
    assert len(set(draws)) == len(draws)


@pytest.mark.parametrize("index", range(0, 120, 5))
def test_most_of_the_thing_is_visible(index: int) -> None:
    scene = render(TINY_SPEC, "train", index)
    name = TINY_SPEC.classes[index % TINY_SPEC.num_classes]
    shown = [k for k, solid in enumerate(scene.solids) if solid.category == name]
    seen = [(scene.owner == k + 1).sum() / SS**2 / scene.rasters[k].area for k in shown]
    assert max(seen) >= MIN_VISIBLE - 1e-6
    assert max(scene.rasters[k].area for k in shown) > 0.03 * 64 * 64


def test_command_and_sheet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "out"
    assert main(DATA_SET, ["--tiny", "--root", str(root), "--workers", "1", "--stats"]) == 0
    assert "| train | 30 | 60 | 2 to 2 |" in capsys.readouterr().out
    plain, named = (
        cv2.imread(str(DATA_SET.write_sheet(tmp_path / name, TINY_SPEC, "val", 6, annotated=on)))
        for name, on in (("p.png", False), ("n.png", True))
    )
    assert plain.shape == named.shape and (plain != named).any()


# ---------------------------------------------------------------- the things


def drawn(name: str | None, seed: int, extent: float = 80.0) -> list[Solid]:
    solids = make_object(np.random.default_rng(seed), name, extent, THEME)
    x0, y0, x1, y1 = solids[0].bounds()
    for solid in solids:
        solid.transform(np.eye(2), np.array([250 - (x0 + x1) / 2, 250 - (y0 + y1) / 2]))
    return solids


@pytest.mark.parametrize("name", [*CLASSES, None])
def test_things_have_the_area_that_is_asked_for(name: str | None) -> None:
    areas, outlines = [], set()
    for seed in range(8):
        solid, *riders = drawn(name, seed)
        assert solid.category == name
        assert [rider.category for rider in riders] in ([], ["person"])
        assert not riders or name in ("bicycle", "motorcycle")
        raster = rasterize(solid, 500, 500)
        assert raster is not None
        outlines.add((raster.labels > 0).tobytes())
        areas.append(raster.area / 80.0**2)
        assert 0.5 < areas[-1] < 2.0
    assert len(outlines) == 8  # no two are alike
    assert 0.75 < np.mean(areas) < (1.7 if name == "person" else 1.35)


def test_riders_are_persons_with_keypoints() -> None:
    found = 0
    for seed in range(12):
        solids = drawn("bicycle", seed, 120.0)
        scene = compose(np.random.default_rng(0), np.full((3, 500, 500), 128.0, "f4"), solids, 0.1)
        persons = [a for a in annotate(scene) if "keypoints" in a]
        assert len(persons) == len(solids) - 1
        found += len(persons)
        for person in persons:
            x, y, w, h = person["bbox"]
            points = np.array(person["keypoints"]).reshape(17, 3)
            assert person["num_keypoints"] == 17
            assert (points[:, :2] > [x - 2, y - 2]).all()
            assert (points[:, :2] < [x + w + 2, y + h + 2]).all()
    assert found > 1


def test_what_is_between_the_tubes_of_a_bicycle_belongs_to_it() -> None:
    solids = next(s for seed in range(9) if len(s := drawn("bicycle", seed, 120.0)) == 1)
    scene = compose(np.random.default_rng(0), np.full((3, 500, 500), 128.0, "f4"), solids, 0.1)
    (found,) = annotate(scene)
    assert found["area"] > 1.15 * scene.rasters[0].area
    labelled = (scene.owner > 0)[scene.rasters[0].fine_window()]
    assert labelled[scene.rasters[0].labels > 0].all()


def test_the_quickstart_has_the_pictures_of_its_records() -> None:
    """Coarse brightness, which other versions of OpenCV do not change."""
    assert quickstart.FULL_SPEC.fingerprint() == "ce86a649beed"
    assert quickstart.TINY_SPEC.fingerprint() == "cb0f729d862a"
    thumbs = [
        cv2.resize(
            quickstart.DATA_SET.render(spec, "val", 3)[0].image,
            (2, 2),
            interpolation=cv2.INTER_AREA,
        )
        for spec in (quickstart.FULL_SPEC, quickstart.TINY_SPEC)
    ]
    expected = [
        [203, 226, 188, 165, 179, 162, 194, 220, 191, 132, 139, 147],
        [112, 107, 116, 142, 143, 153, 127, 133, 138, 131, 148, 144],
    ]
    assert np.abs(np.array(thumbs).reshape(2, -1).astype(int) - expected).max() <= 2
