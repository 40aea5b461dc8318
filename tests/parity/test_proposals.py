"""Stored proposals are to the model, and their recall is, what Detectron2's own ways give."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.data.build import load_proposals_into_dataset
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, BoxMode, Instances

from mask_rcnn_repro.data import MaskRCNNMapper, ProposalWriter, get_test_dicts
from mask_rcnn_repro.data.loading.loader import seeded
from mask_rcnn_repro.evaluation import ProposalEvaluator

DATA = "embedded_tiny_val"


def near_objects(record: dict[str, Any], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes around the objects and anywhere, inside the image, with scores in any order."""
    generator = np.random.RandomState(record["image_id"])
    size = [record["width"], record["height"]] * 2
    objects = [
        BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in record["annotations"]
    ]
    objects = objects or [[0, 0, *size[:2]]]
    chosen = np.array(objects)[generator.randint(0, len(objects), count)]
    boxes = chosen + generator.normal(0, 1, (count, 4)) * generator.choice([1, 5, 40], (count, 1))
    boxes = np.clip(np.sort(boxes.reshape(-1, 2, 2), axis=1).reshape(-1, 4), 0, size)
    return boxes.astype(np.float32), generator.normal(0, 3, count).astype(np.float32)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[dict[str, Any]]]:
    """The same proposals in our format and in Detectron2's pickle, and the data set."""
    folder = tmp_path_factory.mktemp("proposals")
    dicts = get_test_dicts(DATA)[:12]
    ids = [record["image_id"] for record in dicts]
    counts = [0 if i == 4 else 60 + 5 * i for i in range(len(ids))]
    made = [near_objects(record, n) for record, n in zip(dicts, counts, strict=True)]
    ours = ProposalWriter(
        folder / "p", dataset=DATA, fingerprint="sha256:" + 64 * "0", image_ids=ids, topk=1000
    )
    for image_id, (boxes, scores) in zip(ids, made, strict=True):
        ours.add(image_id, boxes, scores)
    ours.finish()
    theirs = {
        "ids": ids,
        "boxes": [boxes for boxes, _ in made],
        "objectness_logits": [scores for _, scores in made],
        "bbox_mode": BoxMode.XYXY_ABS.value,
    }
    (folder / "p.pkl").write_bytes(pickle.dumps(theirs))
    return folder / "p", folder / "p.pkl", dicts


@pytest.mark.parametrize("topk", [20, 2000])
@pytest.mark.parametrize("is_train", [True, False])
@pytest.mark.parametrize(
    "augmentations",
    [
        [T.ResizeShortestEdge([96, 128], 256, "choice"), T.RandomFlip()],
        [T.RandomCrop("relative", (0.4, 0.5)), T.Resize((77, 131))],  # drops boxes
        [],
    ],
    ids=["resize_flip", "crop_resize", "none"],
)
def test_mapped_proposals_are_detectron2s(
    stored: tuple[Path, Path, list[dict[str, Any]]],
    augmentations: list[Any],
    is_train: bool,
    topk: int,
) -> None:
    folder, pkl, dicts = stored
    with_theirs = load_proposals_into_dataset(copy.deepcopy(dicts), str(pkl))
    options: dict[str, Any] = {
        "augmentations": augmentations,
        "image_format": "BGR",
        "precomputed_proposal_topk": topk,
    }
    reference = DatasetMapper(is_train, **options)
    mine = MaskRCNNMapper(is_train, proposal_files=[str(folder)], **options)
    kept = []
    for number, (record, their_record) in enumerate(zip(dicts, with_theirs, strict=True)):
        for entry in their_record["annotations"]:
            entry["bbox"] = [float(x) for x in entry["bbox"]]
        with seeded(number):
            a = mine(record)
        with seeded(number):
            b = reference(copy.deepcopy(their_record))
        with seeded(number):
            c = MaskRCNNMapper(is_train, **options)(their_record)  # proposals of the dict
        assert torch.equal(a["image"], b["image"])
        for x in (a["proposals"], c["proposals"]):
            y = b["proposals"]
            assert x.image_size == y.image_size and list(x.get_fields()) == list(y.get_fields())
            assert type(x.proposal_boxes) is type(y.proposal_boxes)
            assert x.proposal_boxes.tensor.dtype == y.proposal_boxes.tensor.dtype
            assert torch.equal(x.proposal_boxes.tensor, y.proposal_boxes.tensor)
            assert x.objectness_logits.dtype == y.objectness_logits.dtype
            assert torch.equal(x.objectness_logits, y.objectness_logits)
        kept.append(len(a["proposals"]))
    assert kept[4] == 0 and 20 <= max(kept) <= topk


@pytest.mark.parametrize("mode", [BoxMode.XYXY_ABS, BoxMode.XYWH_ABS])
@pytest.mark.parametrize("overlap", [0.3, 0.7])
def test_parts_inside_crowds_are_pycocotools(overlap: float, mode: BoxMode) -> None:
    """Detectron omits proposals whose `iou` with a crowd exceeds the limit."""
    record = copy.deepcopy(get_test_dicts(DATA)[0])
    generator = np.random.RandomState(0)
    size = np.array([record["width"], record["height"]])

    def corners(count: int) -> np.ndarray:
        return np.concatenate([c := generator.uniform(0, 0.6, (count, 2)), c + 0.4], 1)

    crowds = corners(3) * [*size, *size]
    record["annotations"] = [
        {"bbox": BoxMode.convert(list(box), BoxMode.XYXY_ABS, mode), "bbox_mode": mode}
        | {"category_id": 0, "iscrowd": 1}
        for box in crowds
    ]
    ends = np.sort(generator.uniform(0, 1, (500, 2, 2)), axis=1).reshape(-1, 4)
    boxes = (ends * [*size, *size]).astype(np.float32)
    record["proposal_boxes"], record["proposal_bbox_mode"] = boxes, BoxMode.XYXY_ABS
    record["proposal_objectness_logits"] = np.arange(500, 0, -1, dtype=np.float32)
    made = MaskRCNNMapper(
        True, augmentations=[], precomputed_proposal_topk=500, crowd_overlap=overlap
    )(record)
    xywh = [np.c_[b[:, :2], b[:, 2:] - b[:, :2]].astype(np.float64) for b in (boxes, crowds)]
    inside = mask_util.iou(*xywh, [1, 1, 1]).max(axis=1)
    assert np.abs(inside - overlap).min() > 1e-5  # float32 decides as float64 does
    expected = boxes[inside <= overlap]
    assert 100 < len(expected) < 450
    np.testing.assert_array_equal(made["proposals"].proposal_boxes.tensor.numpy(), expected)


@pytest.fixture
def coco_style(tmp_path: Path) -> Iterator[tuple[str, list[Any], list[Any]]]:
    """Ten made-up images with objects of all sizes, crowds, and more than 1000 proposals."""
    generator = np.random.RandomState(3)
    images, annotations, inputs, outputs = [], [], [], []
    for image_id in range(1, 11):
        height, width = (int(x) for x in generator.randint(200, 400, 2))
        images.append({"id": image_id, "height": height, "width": width, "file_name": "x.jpg"})
        objects = []
        for _ in range(generator.randint(1, 8) if image_id != 7 else 0):
            w, h = generator.choice([20, 60, 150]) * generator.uniform(0.5, 1.3, 2)
            x, y = generator.uniform(0, 1, 2) * [width - w, height - h]
            objects.append([x, y, x + w, y + h])
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(generator.choice([3, 7])),
                    "bbox": [x, y, w, h],
                    "area": 0.7 * w * h,
                    "iscrowd": int(generator.rand() < 0.15),
                }
            )
        count = int(generator.choice([30, 250, 1200]))
        near = np.array(objects or [[0, 0, width, height]])
        boxes = near[generator.randint(0, len(near), count)]
        boxes = boxes + generator.normal(0, 12, (count, 4))
        boxes = np.sort(boxes.reshape(-1, 2, 2), axis=1).reshape(-1, 4)
        proposals = Instances((height, width))
        proposals.proposal_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32))
        # all different: Detectron2 sorts ties as it likes
        proposals.objectness_logits = torch.tensor(generator.permutation(count)) / 7 - 20
        inputs.append({"image_id": image_id, "height": height, "width": width})
        outputs.append({"proposals": proposals})
    name = "parity_proposals"
    path = tmp_path / "data.json"
    categories = [{"id": i, "name": str(i)} for i in (3, 7)]
    path.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    DatasetCatalog.register(name, lambda: [])
    MetadataCatalog.get(name).set(json_file=str(path), evaluator_type="coco")
    yield name, inputs, outputs
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def test_recall_is_detectron2s(coco_style: tuple[str, list[Any], list[Any]]) -> None:
    name, inputs, outputs = coco_style
    reference = COCOEvaluator(name, distributed=False)
    ours = ProposalEvaluator(name)
    for evaluator in (reference, ours):
        evaluator.reset()
        evaluator.process(inputs[:3], outputs[:3])
        evaluator.process(inputs[3:], outputs[3:])
    expected = reference.evaluate()["box_proposals"]
    found = ours.evaluate()["proposals"]
    for key in ("AR@100", "AR@1000", "ARs@1000", "ARm@1000", "ARl@1000"):
        assert found[key] == pytest.approx(expected[key], abs=1e-9), key
    assert 0 < found["AR@100"] < found["AR@300"] < found["AR@1000"] < 100
