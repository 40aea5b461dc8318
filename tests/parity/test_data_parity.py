"""Reading and mapping agree with Detectron2 on valid data: embedded, and real where it is."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.data.datasets import load_coco_json as reference_load

from mask_rcnn_repro.data import MaskRCNNMapper, get_test_dicts
from mask_rcnn_repro.data.keypoint_metadata import keypoint_flip_indices
from mask_rcnn_repro.data.loading.loader import seeded

REAL_ROOT = Path(
    os.environ.get(
        "DETECTRON2_DATASETS", Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
    )
)
needs_coco = pytest.mark.skipif(
    not (REAL_ROOT / "coco" / "annotations" / "instances_val2017.json").is_file(),
    reason=f"no COCO 2017 data below {REAL_ROOT} (set DETECTRON2_DATASETS)",
)
NAMES = [
    "embedded_tiny_train",
    "embedded_tiny_val",
    "embedded_tiny_person_val",
    *(
        pytest.param(name, marks=needs_coco)
        for name in ("coco_trainval35k", "coco_minival", "keypoints_coco_minival")
    ),
]


@pytest.fixture(autouse=True)
def real_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(REAL_ROOT))


def _read(name: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]], Any]:
    ours = get_test_dicts(name)
    metadata = MetadataCatalog.get(name)
    if len(ours) > 200:
        pytest.skip(f"{metadata.json_file} is the whole data set; the comparison is for samples")
    other = f"reference_{uuid.uuid4().hex}"
    theirs = reference_load(metadata.json_file, metadata.image_root, other)
    return ours, theirs, MetadataCatalog.get(other)


@pytest.mark.parametrize("name", NAMES)
def test_dicts_are_identical(name: str) -> None:
    ours, theirs, metadata = _read(name)
    assert ours == theirs
    mine = MetadataCatalog.get(name)
    assert list(mine.thing_classes) == metadata.thing_classes
    assert mine.thing_dataset_id_to_contiguous_id == metadata.thing_dataset_id_to_contiguous_id


@pytest.mark.parametrize("name", NAMES)
def test_mapped_images_and_targets_are_identical(name: str) -> None:
    ours, theirs, _ = _read(name)
    person = "person" in name or "keypoints" in name
    options: dict[str, Any] = {
        "augmentations": [T.ResizeShortestEdge([96, 128], 256, "choice"), T.RandomFlip()],
        "image_format": "BGR",
        "use_instance_mask": True,
        "use_keypoint": person,
    }
    mine = MaskRCNNMapper(is_train=True, **options)
    reference = DatasetMapper(
        is_train=True, keypoint_hflip_indices=keypoint_flip_indices(), **options
    )
    compared = 0
    for number, (left, right) in enumerate(zip(ours[:20], theirs[:20], strict=True)):
        integers = any(
            type(x) is int for a in right["annotations"] for p in a["segmentation"] for x in p
        )
        if integers or any(
            isinstance(a["segmentation"], dict) and not a["iscrowd"] for a in right["annotations"]
        ):
            continue  # the reference rounds integers down, and takes one mask format for all
        for entry in right["annotations"]:
            entry["bbox"] = [float(x) for x in entry["bbox"]]
        with seeded(number):
            a = mine(left)
        with seeded(number):
            b = reference(right)
        assert torch.equal(a["image"], b["image"])
        a, b = a["instances"], b["instances"]
        assert a.image_size == b.image_size and list(a.get_fields()) == list(b.get_fields())
        assert torch.equal(a.gt_boxes.tensor, b.gt_boxes.tensor)
        assert torch.equal(a.gt_classes, b.gt_classes)
        if person and len(a):
            assert torch.equal(a.gt_keypoints.tensor, b.gt_keypoints.tensor)
        if a.has("gt_masks"):
            for p, q in zip(a.gt_masks.polygons, b.gt_masks.polygons, strict=True):
                assert all(np.array_equal(x, y) for x, y in zip(p, q, strict=True))
        compared += 1
    assert compared >= 5
