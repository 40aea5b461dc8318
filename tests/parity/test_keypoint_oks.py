"""Keypoint AP is what pycocotools gives, for any skeleton, and OKS what its formula says."""

from __future__ import annotations

import copy
import json
import math
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin_meta import COCO_PERSON_KEYPOINT_NAMES
from detectron2.structures import Boxes, Instances
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mask_rcnn_repro.evaluation import CocoEvaluator

FIVE_SIGMAS = [0.03, 0.05, 0.07, 0.1, 0.15]
NAMES = {
    17: list(COCO_PERSON_KEYPOINT_NAMES),
    5: ["nose", "left_hand", "right_hand", "left_foot", "right_foot"],
}


@pytest.fixture
def register(tmp_path):
    """Registers a json's content as a data set of persons; returns its name."""
    made = []

    def do(content: dict[str, Any], sigmas: list[float] | None) -> str:
        name = f"parity_keypoints_{uuid.uuid4().hex}"
        path = Path(tmp_path, f"{name}.json")
        path.write_text(json.dumps(content))
        DatasetCatalog.register(name, list)
        MetadataCatalog.get(name).set(
            json_file=str(path),
            evaluator_type="coco_person",
            thing_classes=["person"],
            thing_dataset_id_to_contiguous_id={1: 0},
            keypoint_names=content["categories"][0]["keypoints"],
            **({} if sigmas is None else {"keypoint_oks_sigmas": sigmas}),
        )
        made.append(name)
        return name

    yield do
    for name in made:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def quarters(values: np.ndarray) -> np.ndarray:
    """Multiples of 1/4, which halving, doubling and adding 0.5 keep exact in float32."""
    return np.round(np.asarray(values) * 4) / 4


def persons(count: int, images: int = 9) -> dict[str, Any]:
    """Random persons of all sizes, labels and crowds; image 9 has none."""
    generator = np.random.RandomState(count)
    content: dict[str, Any] = {
        "images": [
            {"id": 11 * i + 3, "file_name": f"{i}.jpg", "height": 240, "width": 320}
            for i in range(images)
        ],
        "categories": [{"id": 1, "name": "person", "keypoints": NAMES[count]}],
        "annotations": [],
    }
    for image in content["images"][:-1]:
        for _ in range(generator.randint(1, 5)):
            size = quarters(generator.uniform(12, 200, 2))
            corner = quarters(generator.uniform(0, 40, 2))
            crowd = len(content["annotations"]) % 6 == 3
            kind = generator.randint(0, 4)  # 0: no labels; else mixed
            visibility = generator.choice([0, 1, 2], count) * (kind > 0 and not crowd)
            places = quarters(corner + generator.rand(count, 2) * size) * (visibility > 0)[:, None]
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": image["id"],
                    "category_id": 1,
                    "bbox": [*corner.tolist(), *size.tolist()],
                    "area": float(size.prod() * 0.6),
                    "iscrowd": int(crowd),
                    "keypoints": np.column_stack([places, visibility]).ravel().tolist(),
                    "num_keypoints": int((visibility > 0).sum()),
                }
            )
    return content


def detections(content: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Results in COCO's format: persons found more or less well, twice, or where none is."""
    generator = np.random.RandomState(17 + count)
    results = []

    def add(image_id: int, corner: np.ndarray, size: np.ndarray, places: np.ndarray) -> None:
        score = round(generator.rand() * 16) / 16  # exact, with ties
        points = np.column_stack([places, np.full(count, 0.5)]).ravel().tolist()
        results.append(
            {
                "image_id": image_id,
                "category_id": 1,
                "bbox": [*corner.tolist(), *size.tolist()],
                "keypoints": points,
                "score": score,
            }
        )

    for item in content["annotations"]:
        corner, size = np.array(item["bbox"][:2]), np.array(item["bbox"][2:])
        places = np.array(item["keypoints"]).reshape(-1, 3)[:, :2]
        for noise in (0.03, 0.15) if generator.rand() < 0.8 else ():
            moved = places + generator.normal(0, noise, (count, 2)) * size
            add(item["image_id"], corner, size, quarters(moved))
    for image in content["images"]:
        corner, size = quarters(generator.uniform(0, 60, 2)), quarters(generator.uniform(9, 99, 2))
        add(image["id"], corner, size, quarters(corner + generator.rand(count, 2) * size))
    return results


def instances_of(results: list[dict[str, Any]], count: int, scale: float) -> Instances:
    """What a model would predict, on an image `scale` times as large as 240 x 320.

    Pixel indices become coordinates: + 0.5.
    """
    boxes = np.array([r["bbox"] for r in results]).reshape(-1, 4)
    points = np.array([r["keypoints"] for r in results]).reshape(len(results), count, 3)
    points = (points + np.array([0.5, 0.5, 0])) * [scale, scale, 1]
    boxes = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1) * scale
    return Instances(
        (round(240 * scale), round(320 * scale)),
        pred_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32)),
        scores=torch.tensor([r["score"] for r in results], dtype=torch.float32),
        pred_classes=torch.zeros(len(results), dtype=torch.int64),
        pred_keypoints=torch.tensor(points, dtype=torch.float32),
    )


def evaluate(name: str, content: dict[str, Any], results: list[dict[str, Any]]) -> dict[str, Any]:
    evaluator = CocoEvaluator(name)
    count = len(content["categories"][0]["keypoints"])
    for number, image in enumerate(content["images"]):
        found = [r for r in results if r["image_id"] == image["id"]]
        scale = (0.5, 1.0, 2.0)[number % 3]
        inputs = {"image_id": image["id"], "height": 240, "width": 320}
        evaluator.process([inputs], [{"instances": instances_of(found, count, scale)}])
    return evaluator.evaluate()["keypoints"]


def pycocotools(content: dict[str, Any]) -> COCO:
    truth = COCO()
    truth.dataset = copy.deepcopy(content)
    truth.createIndex()
    return truth


def official(
    content: dict[str, Any], results: list[dict[str, Any]], sigmas: list[float] | None
) -> list[float]:
    """AP, AP50, AP75, APm, APl of pycocotools alone, in percent."""
    truth = pycocotools(content)
    evaluation = COCOeval(truth, truth.loadRes(copy.deepcopy(results)), "keypoints")
    if sigmas is not None:
        evaluation.params.kpt_oks_sigmas = np.array(sigmas)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return [100 * value for value in evaluation.stats[:5]]


@pytest.mark.parametrize(("count", "sigmas"), [(17, None), (5, FIVE_SIGMAS)])
def test_keypoint_metrics_are_those_of_pycocotools(register, count, sigmas):
    content = persons(count)
    labels = {
        (a["iscrowd"], a["num_keypoints"] > 0, *sorted(set(a["keypoints"][2::3])))
        for a in content["annotations"]
    }
    assert {(1, False, 0), (0, False, 0), (0, True, 0, 1, 2)} <= labels
    results = detections(content, count)
    found = evaluate(register(content, sigmas), content, results)
    names = ("AP", "AP50", "AP75", "APm", "APl")
    assert [found[name] for name in names] == official(content, results, sigmas)
    assert found["per_class"] == {"person": found["AP"]}
    assert 10 < found["AP"] < 90 and len({found[name] for name in names}) == 5
    # The test server gets no boxes; they only matter for the sizes of what matches nothing.
    bare = [{k: v for k, v in r.items() if k != "bbox"} for r in results]
    assert [found[name] for name in names[:3]] == official(content, bare, sigmas)[:3]
    if sigmas is not None:
        assert found["AP"] != official(content, results, [0.05] * count)[0]


def test_similarity_of_one_pair_by_hand(register):
    """OKS = sum_i exp(-d_i^2 / (2 s^2 k_i^2)) [v_i > 0] / sum_i [v_i > 0], with k_i = 2 sigma_i and
    s^2 the object's area (cocodataset.org/#keypoints-eval)."""
    content = persons(5, images=2)
    visibility = [2, 1, 0, 2, 0]
    offsets = [(1.0, 0.0), (3.0, 4.0), (50.0, 50.0), (-6.0, 2.0), (70.0, 0.0)]
    truth = [[40.0 + 10 * i, 60.0, v] if v else [0, 0, 0] for i, v in enumerate(visibility)]
    guess = [[x + dx, y + dy, 1] for (x, y, _), (dx, dy) in zip(truth, offsets, strict=True)]
    area = 2500.0
    person = {
        **content["annotations"][0],
        **{"id": 1, "iscrowd": 0, "bbox": [30.0, 30, 60, 60], "area": area, "num_keypoints": 3},
        "keypoints": [number for point in truth for number in point],
    }
    content["annotations"] = [person]
    result = {
        "image_id": person["image_id"],
        **{"category_id": 1, "bbox": person["bbox"], "score": 1.0},
        "keypoints": [float(number) for point in guess for number in point],
    }
    terms = [
        math.exp(-(dx**2 + dy**2) / (2 * area * (2 * sigma) ** 2))
        for (dx, dy), sigma, v in zip(offsets, FIVE_SIGMAS, visibility, strict=True)
        if v > 0
    ]
    expected = sum(terms) / 3
    assert terms[1] == pytest.approx(math.exp(-0.5))  # 5 px are one k_i s = 2 * 0.05 * 50
    assert 0.7 < expected < 0.95

    coco = pycocotools(content)
    evaluation = COCOeval(coco, coco.loadRes([dict(result)]), "keypoints")
    evaluation.params.kpt_oks_sigmas = np.array(FIVE_SIGMAS)
    evaluation._prepare()
    similarity = evaluation.computeOks(person["image_id"], 1)
    assert similarity.shape == (1, 1)
    assert similarity[0, 0] == pytest.approx(expected, rel=1e-12)

    # One person, one guess: found at each of the ten thresholds up to its OKS.
    thresholds = [0.5 + 0.05 * i for i in range(10)]
    reached = sum(expected >= threshold for threshold in thresholds)
    found = evaluate(register(content, FIVE_SIGMAS), content, [result])
    assert found["AP"] == pytest.approx(10 * reached)
    assert found["APm"] == found["AP"] and math.isnan(found["APl"])
