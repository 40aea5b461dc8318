"""Detections in flat arrays: the same results and metrics, in a fraction of the memory."""

from __future__ import annotations

import gc
import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances

from mask_rcnn_repro.errors import DataError
from mask_rcnn_repro.evaluation import CocoEvaluator
from mask_rcnn_repro.evaluation.coco.backends import coco_result
from mask_rcnn_repro.evaluation.coco.detections import TASK_FIELDS, Detections, ResultStream
from mask_rcnn_repro.evaluation.coco.ground_truth import index_ground_truth
from mask_rcnn_repro.evaluation.masks.rle import instances_to_results

HEIGHT, WIDTH, PER_IMAGE = 480, 640, 100
CATEGORIES = [3, 7, 18]
NAME = "evaluation_memory"


def prediction(seed: int, count: int = PER_IMAGE, keypoints: bool = False) -> Instances:
    """Discs of many sizes."""
    rng = np.random.RandomState(seed)
    size = rng.uniform(8, 200, (count, 2))
    start = rng.uniform(0, 1, (count, 2)) * (np.array([WIDTH, HEIGHT]) - size)
    y, x = np.mgrid[-1:1:28j, -1:1:28j]
    masks = 1 / (1 + np.exp(10 * (np.hypot(x, y) - rng.uniform(0.4, 1, (count, 1, 1, 1)))))
    found = Instances((HEIGHT, WIDTH))
    found.pred_boxes = Boxes(torch.tensor(np.hstack([start, start + size]), dtype=torch.float32))
    found.scores = torch.tensor(rng.rand(count), dtype=torch.float32)
    found.pred_classes = torch.tensor(rng.randint(0, 3, count))
    found.pred_masks = torch.tensor(masks, dtype=torch.float32)
    if keypoints:
        points = rng.rand(count, 17, 3) * [WIDTH, HEIGHT, 1]
        found.pred_keypoints = torch.tensor(points, dtype=torch.float32)
    return found


def truth(images: int, count: int = PER_IMAGE) -> dict[str, Any]:
    annotations = []
    for image in range(1, images + 1):
        found = prediction(image, count, keypoints=True)  # half of what is detected, nearly
        results = instances_to_results(found, HEIGHT, WIDTH, image)
        for result in results[::2]:
            x, y, w, h = result["bbox"]
            annotations.append(
                {
                    **{"id": len(annotations) + 1, "image_id": image, "iscrowd": 0},
                    **{"category_id": CATEGORIES[result["category_id"]]},
                    **{"bbox": [x + 2, y, w, h], "area": w * h * 0.7},
                    **{"segmentation": result["segmentation"], "num_keypoints": 17},
                    **{"keypoints": [v if i % 3 < 2 else 2 for i, v in enumerate(points(result))]},
                }
            )
    return {
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "height": HEIGHT, "width": WIDTH}
            for i in range(1, images + 1)
        ],
        "annotations": annotations,
        "categories": [{"id": c, "name": str(c)} for c in CATEGORIES],
    }


def points(result: dict[str, Any]) -> list[float]:
    keypoints: list[float] = result["keypoints"]
    return keypoints


@pytest.fixture
def evaluator(tmp_path: Path) -> Any:
    (tmp_path / "gt.json").write_text(json.dumps(truth(30)))
    MetadataCatalog.get(NAME).set(
        json_file=str(tmp_path / "gt.json"),
        thing_dataset_id_to_contiguous_id={c: i for i, c in enumerate(CATEGORIES)},
    )
    yield CocoEvaluator(NAME, str(tmp_path / "out"))
    MetadataCatalog.remove(NAME)


def feed(evaluator: CocoEvaluator, first: int, last: int) -> None:
    for image in range(first, last + 1):
        inputs = {"image_id": image, "height": HEIGHT, "width": WIDTH}
        evaluator.process([inputs], [{"instances": prediction(image)}])


@pytest.mark.slow
def test_bytes_a_detection(evaluator: CocoEvaluator) -> None:
    """Collecting takes little more than the run lengths; measuring holds no second copy."""
    feed(evaluator, 1, 1)  # imports, compiled code
    evaluator.reset()
    gc.collect()
    tracemalloc.start()
    try:
        held = []
        for step in range(3):
            feed(evaluator, 10 * step + 1, 10 * step + 10)
            gc.collect()
            held.append(tracemalloc.get_traced_memory()[0])
        detections = len(evaluator._detections)
        assert detections == 30 * PER_IMAGE
        masks = len(evaluator._detections._masks)
        assert 40 < masks / detections < 400  # of the run lengths
        # buffers grow by an eighth at a time
        assert held[-1] <= 1.15 * (masks + 52 * detections) + 20_000
        evaluator._ground_truth = index_ground_truth(truth(30))
        gc.collect()
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        metrics = evaluator.evaluate()
        more = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert evaluator.computed_by == "hotcoco"
    assert metrics["segm"]["AP50"] >= 0
    # as dicts these detections take about 1 kB each, and twice that with a copy for each task;
    # the rest is precision and recall by class, whatever the number of images
    assert more < 300 * detections + 1_500_000


def collected(images: int, **options: Any) -> tuple[list[Detections], list[dict[str, Any]]]:
    """Detections over two parts, and the same as the dicts of old."""
    parts, expected = [Detections(), Detections()], []
    for image in range(1, images + 1):
        instances = prediction(image, 0 if image == 3 else 12, keypoints=True, **options)
        results = instances_to_results(instances, HEIGHT, WIDTH, image)
        tasks = ["segm", "keypoints"]
        parts[image % 2].append(image, HEIGHT, WIDTH, results, tasks)
        expected += [{**r, "category_id": CATEGORIES[r["category_id"]]} for r in results]
    return parts, expected


@pytest.mark.parametrize("task", list(TASK_FIELDS))
def test_streams_hold_the_same_results_and_give_the_same_metrics(task: str, tmp_path: Path) -> None:
    parts, dicts = collected(6)
    with_box = task == "keypoints"
    stream = ResultStream(
        parts, task, image_ids=range(1, 7), category_ids=CATEGORIES, with_box=with_box
    )
    keys = ["image_id", "category_id", "score", TASK_FIELDS[task], *(["bbox"] * with_box)]
    expected = [{key: d[key] for key in keys} for d in dicts]
    assert list(stream) == expected and len(stream) == len(expected) == 60
    file = io.StringIO()
    stream.write(file)
    assert file.getvalue() == json.dumps(expected)
    gt = index_ground_truth(truth(6, 12)).coco
    for names in ({c: str(c) for c in CATEGORIES}, {7: "seven"}):
        found = coco_result(gt, stream, task, class_names=names, backend="hotcoco")
        assert found.backend == "hotcoco"
        for backend in ("hotcoco", "pycocotools"):
            for detections in (expected, stream):
                other = coco_result(gt, detections, task, class_names=names, backend=backend)
                assert other.backend == backend
                assert repr(other.metrics) == repr(found.metrics)
    assert found.metrics["AP50"] > 0


def test_the_last_of_two_results_on_an_image_counts() -> None:
    parts = [Detections(), Detections()]
    for part, score in ((0, 0.1), (0, 0.2), (1, 0.3)):
        result = {"category_id": 0, "score": score, "bbox": [1.0, 2.0, 3.0, 4.0]}
        parts[part].append("a", 9, 9, [result] * (3 - part), [])
    stream = ResultStream(parts, "bbox", image_ids=["a"], category_ids=[5])
    assert [d["score"] for d in stream] == [0.3, 0.3]
    stream = ResultStream(parts[:1], "bbox", image_ids=["a"], category_ids=[5])
    assert [d["score"] for d in stream] == [0.2] * 3


def test_categories_are_chosen() -> None:
    parts, dicts = collected(2)
    stream = ResultStream(parts, "bbox", image_ids=[1, 2], category_ids=CATEGORIES)
    assert stream.only(CATEGORIES) is stream
    chosen = stream.only([7, 99])
    expected = [d["score"] for d in dicts if d["category_id"] == 7]
    assert [d["score"] for d in chosen] == expected
    assert len(chosen) == len(expected) < len(stream)


def test_masks_of_some_images_only_are_refused() -> None:
    detections = Detections()
    box = {"category_id": 0, "score": 0.5, "bbox": [1.0, 2.0, 3.0, 4.0]}
    mask = {"segmentation": {"size": [9, 9], "counts": "abc"}}
    detections.append(1, 9, 9, [box | mask], ["segm"])
    with pytest.raises(DataError, match="image 2"):
        detections.append(2, 9, 9, [box], [])
