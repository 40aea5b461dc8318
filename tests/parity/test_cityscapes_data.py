"""Cityscapes' loader against Detectron2's and against the official scripts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from cityscapesscripts.evaluation.instances2dict import instances2dict
from detectron2.data import MetadataCatalog
from pycocotools import mask as mask_util

from mask_rcnn_repro.data.cityscapes.labels import THING_CLASSES
from mask_rcnn_repro.data.cityscapes.load import load_cityscapes

from ..unit.cityscapes_data_helpers import HEIGHT, WIDTH, paths, rectangle, write_image

LABELS = (
    *("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
    *("persongroup", "cargroup", "bicyclegroup", "caravan", "trailer", "license plate", "pole"),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random scenes: polygons of all kinds, one over the other."""
    root = tmp_path_factory.mktemp("cityscapes")
    rng = np.random.RandomState(0)
    for number in range(8):
        objects: list[dict[str, Any]] = [rectangle("road", 0, 0, WIDTH - 1, HEIGHT - 1)]
        for _ in range(14):
            centre, radius = rng.randint(0, [WIDTH, HEIGHT]), rng.randint(2, 16)
            points = centre + rng.randint(-radius, radius + 1, (rng.randint(3, 8), 2))
            objects.append({"label": LABELS[rng.randint(len(LABELS))], "polygon": points.tolist()})
        objects.append({**rectangle("car", 0, 0, 20, 20), "deleted": 1})
        write_image(root, "val", f"bonn_000000_{number:06d}", objects)
    return root


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASK_RCNN_REPRO_CACHE", str(tmp_path / "cache"))


def decode(annotation: dict[str, Any]) -> np.ndarray:
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, list):
        segmentation = mask_util.merge(mask_util.frPyObjects(segmentation, HEIGHT, WIDTH))
    return mask_util.decode(segmentation).astype(bool)


@pytest.fixture
def reference_load() -> Any:
    try:
        from detectron2.data.datasets.cityscapes import load_cityscapes_instances
    except ImportError as error:
        pytest.skip(f"Detectron2's own loader cannot be imported: {error}")
    return load_cityscapes_instances


def test_instance_ids_as_detectron2(root: Path, reference_load: Any) -> None:
    ours = load_cityscapes(root, "val")
    theirs = reference_load(
        str(root / "leftImg8bit/val"), str(root / "gtFine/val"), from_json=False, to_polygons=False
    )
    theirs.sort(key=lambda record: record["image_id"])
    compared = 0
    for our, their in zip(ours, theirs, strict=True):
        assert their["image_id"] == f"{our['image_id']}_leftImg8bit.png"
        assert (their["file_name"], their["height"]) == (our["file_name"], our["height"])
        wide = [  # it leaves out what is one pixel wide or high
            a
            for a in our["annotations"]
            if min(a["bbox"][2] - a["bbox"][0], a["bbox"][3] - a["bbox"][1]) > 1
        ]
        for a, b in zip(wide, their["annotations"], strict=True):
            assert (a["category_id"], a["iscrowd"]) == (b["category_id"], b["iscrowd"])
            assert a["segmentation"] == b["segmentation"]
            # its boxes end on the last pixel, ours, like its polygons' boxes, behind it
            assert a["bbox"] == [*b["bbox"][:2], b["bbox"][2] + 1, b["bbox"][3] + 1]
            compared += 1
    assert compared > 40


def test_polygons_near_detectron2s(root: Path, reference_load: Any) -> None:
    """Its outlines join indices of the boundary's pixels, so they lose at most the boundary."""
    ours = load_cityscapes(root, "val", "polygons")
    theirs = reference_load(
        str(root / "leftImg8bit/val"), str(root / "gtFine/val"), from_json=False, to_polygons=True
    )
    theirs.sort(key=lambda record: record["image_id"])
    lost = compared = 0
    for our, their in zip(ours, theirs, strict=True):
        by_box = {(a["category_id"], *a["bbox"]): a for a in our["annotations"]}
        for b in their["annotations"]:
            x1, y1, x2, y2 = b["bbox"]
            mine = decode(by_box[b["category_id"], x1, y1, x2 + 1, y2 + 1])
            inner = cv2.erode(mine.astype(np.uint8), np.ones((3, 3)), borderValue=0)
            other = decode(b)
            assert other[inner > 0].all()
            lost += int((mine & ~other).sum())
            compared += 1
    assert compared > 40
    assert lost > compared


def test_polygons_boxes_as_detectron2(tmp_path: Path, reference_load: Any) -> None:
    """Boxes of what its json reader takes end behind the last pixel, as ours do."""
    pytest.importorskip("shapely", reason="Detectron2 reads the json with shapely")
    write_image(tmp_path, "val", "bonn_000000_000000", [rectangle("car", 10, 12, 30, 29)])
    (our,) = load_cityscapes(tmp_path, "val", "polygons")
    (their,) = reference_load(str(tmp_path / "leftImg8bit/val"), str(tmp_path / "gtFine/val"))
    assert our["annotations"][0]["bbox"] == pytest.approx(their["annotations"][0]["bbox"])


def test_both_sources_give_the_same_pixels(root: Path) -> None:
    runs, outlines = (load_cityscapes(root, "val", m) for m in ("instance_ids", "polygons"))
    for by_runs, by_outlines in zip(runs, outlines, strict=True):
        for a, b in zip(by_runs["annotations"], by_outlines["annotations"], strict=True):
            assert {**a, "segmentation": 0} == {**b, "segmentation": 0}
            assert (decode(a) == decode(b)).all()


@pytest.mark.parametrize("masks", ["instance_ids", "polygons"])
def test_instances_are_those_of_the_official_scripts(root: Path, masks: Any) -> None:
    compared = 0
    for record in load_cityscapes(root, "val", masks):
        file = str(paths(root, "val", record["image_id"])["instance_ids"])
        assert record["instance_ids_file"] == file
        (official,) = instances2dict(file).values()
        for category, name in enumerate(THING_CLASSES):
            wanted = [(int(i["instID"] < 1000), i["pixelCount"]) for i in official[name]]
            found = [
                (a["iscrowd"], int(decode(a).sum()))
                for a in record["annotations"]
                if a["category_id"] == category
            ]
            assert found == wanted
            compared += len(wanted)
    assert compared > 40


def test_classes_as_detectron2s() -> None:
    from mask_rcnn_repro.data.cityscapes.registration import register_cityscapes

    register_cityscapes()
    theirs = MetadataCatalog.get("cityscapes_fine_instance_seg_val")
    assert MetadataCatalog.get("cityscapes_val").thing_classes == theirs.thing_classes
