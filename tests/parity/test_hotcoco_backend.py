"""COCO metrics by hotcoco are pycocotools', to the last bit, or pycocotools computes them."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from hypothesis import given, settings
from hypothesis import strategies as st

from mask_rcnn_repro.errors import DataError
from mask_rcnn_repro.evaluation import CocoEvaluator, coco_metrics
from mask_rcnn_repro.evaluation.backends import (
    BackendCannot,
    check_backend,
    coco_metrics_by,
    pycocotools_metrics,
)
from mask_rcnn_repro.evaluation.ground_truth import index_ground_truth

hotcoco = pytest.importorskip("hotcoco")
from mask_rcnn_repro.evaluation.hotcoco_backend import hotcoco_metrics  # noqa: E402

TASKS = ["bbox", "segm", "keypoints"]
LIMITS = [[1, 10, 100], [1, 10, 50], [1, 2, 3], [3, 2, 1], [1, 10, 100, 300], [2, 100, 100]]


class Scene:
    """A random data set and results; a flag picks whole numbers, which make exact ties."""

    def __init__(self, seed: int, task: str, grid: bool) -> None:
        self.random = np.random.default_rng(seed)
        self.task, self.grid = task, grid
        chance = self.random.random
        categories = sorted(self.random.choice(50, 3, replace=False).tolist())
        ids = self.random.permutation(40)[: self.random.integers(1, 10)].tolist()
        sizes = self.random.integers(20, 200, (len(ids), 2)).tolist()
        self.images = [
            {"id": i, "height": h, "width": w} for i, (h, w) in zip(ids, sizes, strict=True)
        ]
        annotations, self.results = [], []
        for image in self.images:
            for category in categories:
                for _ in range(self.random.integers(0, 4)):
                    found = self.object(image, category)
                    annotations.append(self.annotate(found, image))
                    for _ in range(self.random.integers(0, 3)):
                        label = category if chance() < 0.8 else categories[0]
                        self.results.append(self.object(image, label, found))
                for _ in range(self.random.integers(0, 2)):
                    self.results.append(self.object(image, category))
        if chance() < 0.05:
            annotations = []
        if chance() < 0.05:
            self.results = []
        numbers = self.random.permutation(len(annotations)) + 1
        for annotation, number in zip(annotations, numbers.tolist(), strict=True):
            annotation["id"] = number
        boxes_stay = task == "bbox" or (task == "keypoints" and chance() < 0.5)
        tied = chance() < 0.5
        for result in self.results:
            result["score"] = float(self.random.integers(0, 4)) / 4 if tied else float(chance())
            if not boxes_stay:
                del result["bbox"]
        self.random.shuffle(self.results)
        content = [{"id": c, "name": str(c)} for c in categories]
        self.content = {"images": self.images, "categories": content, "annotations": annotations}
        self.image_ids = ids if chance() < 0.6 else ids[: self.random.integers(1, len(ids) + 1)]
        self.category_ids = categories if chance() < 0.7 else categories[:1]

    def object(self, image, category, near=None):
        chance, width, height = self.random.random, image["width"], image["height"]
        if near is None or chance() < 0.3:
            box = self.random.uniform([-5, -5, 1, 1], [width - 1, height - 1, width, height])
        else:
            box = np.array(near["bbox"]) + self.random.normal(0, self.random.choice([0, 3]), 4)
        if self.grid:
            box = np.round(box / 4) * 4
        box[2:] = np.maximum(box[2:], 1)
        found = {"image_id": image["id"], "category_id": category, "bbox": box.tolist()}
        if self.task == "segm":
            found["segmentation"] = self.mask(box, height, width)
        if self.task == "keypoints":
            points = self.random.uniform(0, 1, (17, 3)) * [width, height, 3]
            if near is not None and chance() < 0.7:
                points = np.reshape(near["keypoints"], (17, 3)).copy()
                points[:, :2] += self.random.normal(0, self.random.choice([0, 2]), (17, 2))
            points[:, 2] = np.floor(points[:, 2]) * (chance() > 0.15)
            found["keypoints"] = (np.round(points) if self.grid else points).ravel().tolist()
        return found

    def mask(self, box, height, width):
        mask = np.zeros((height, width), np.uint8, order="F")
        ends = [box[0], box[1], box[0] + box[2], box[1] + box[3]]
        x0, y0, x1, y1 = np.clip(ends, 0, [width, height] * 2).astype(int)
        mask[y0:y1, x0:x1] = self.random.random((y1 - y0, x1 - x0)) < self.random.choice([0.8, 1])
        rle = mask_util.encode(mask)
        return {"size": [height, width], "counts": rle["counts"].decode()}

    def annotate(self, found, image):
        annotation = copy.deepcopy(found)
        x, y, w, h = found["bbox"]
        areas = [w * h, w * h * 0.7, 32.0**2, 96.0**2]  # limits of the sizes, too
        annotation["area"] = float(self.random.choice(areas, p=[0.5, 0.3, 0.1, 0.1]))
        annotation["iscrowd"] = int(self.random.random() < 0.15)
        if self.random.random() < 0.1:
            annotation["ignore"] = 1  # which pycocotools ignores
        if self.task == "segm":
            kind = self.random.integers(0, 3)
            if kind == 0:
                annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
                odd = self.random.uniform(-10, 200, self.random.choice([6, 14])).tolist()
                annotation["segmentation"] += [odd] * int(self.random.integers(0, 2))
            elif kind == 1:
                pixels = mask_util.decode(annotation["segmentation"]).ravel(order="F")
                ends = np.flatnonzero(np.diff(pixels)) + 1
                counts = np.diff([0, *ends, len(pixels)]).tolist()
                counts = [0] * int(pixels[0]) + counts
                annotation["segmentation"]["counts"] = counts
        if self.task == "keypoints":
            annotation["num_keypoints"] = sum(v > 0 for v in found["keypoints"][2::3])
        return annotation

    def arguments(self):
        results = [r for r in self.results if r["category_id"] in self.category_ids]
        truth = index_ground_truth(copy.deepcopy(self.content)).coco
        return truth, copy.deepcopy(results), self.task


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(TASKS),
    st.booleans(),
    st.sampled_from(LIMITS),
    st.booleans(),
)
def test_equal_to_the_last_bit(seed, task, grid, max_dets, own_sigmas):
    scene = Scene(seed, task, grid)
    options = {
        "image_ids": scene.image_ids,
        "category_ids": scene.category_ids,
        "max_dets": max_dets,
        "oks_sigmas": np.linspace(0.02, 0.1, 17).tolist() if own_sigmas else [],
    }
    expected = pycocotools_metrics(*scene.arguments(), **options)
    assert hotcoco_metrics(*scene.arguments(), **options) == expected


def boxes(count=4, **changes):
    """Two images with an object, and results of which some are right."""
    annotations = [
        {"id": i, "image_id": i, "category_id": 1, "bbox": [5, 5, 40, 40], "area": 1600}
        for i in (1, 2)
    ]
    content = {
        "images": [{"id": i, "width": 100, "height": 80} for i in (1, 2, 3)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [{**a, **changes} for a in annotations],
    }
    results = [
        {"image_id": 1, "category_id": 1, "bbox": [5 + i, 5, 40, 40], "score": 0.9 - i / 10}
        for i in range(count)
    ]
    return index_ground_truth(content).coco, results


def test_hand_computed():
    # one of two objects found exactly: recall 0.5 at precision 1, so 51 of 101 recalls
    for backend in ("hotcoco", "pycocotools", "auto"):
        metrics, name = coco_metrics_by(*boxes(1), "bbox", backend=backend)
        assert name == ("hotcoco" if backend == "auto" else backend)
        assert metrics["AP"] == pytest.approx(100 * 51 / 101)
        assert np.isnan(metrics["APs"]) and np.isnan(metrics["per_class"]["dog"])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"iscrowd": 2}, "iscrowd"),
        ({"area": float("nan")}, "area"),
        ({"segmentation": [[1, 1, 30, 30]]}, "three points"),
        ({"segmentation": []}, "three points"),
        ({"segmentation": "x"}, "str"),
    ],
)
def test_unusual_annotations_are_left_to_pycocotools(change, reason):
    gt, results = boxes(**change)
    task = "segm" if "segmentation" in change else "bbox"
    with pytest.raises(BackendCannot, match=reason):
        hotcoco_metrics(
            gt,
            [],
            task,
            image_ids=[1, 2, 3],
            category_ids=[1, 2],
            max_dets=[1, 10, 100],
            oks_sigmas=[],
        )
    if task == "bbox":
        metrics, name = coco_metrics_by(gt, results, task, backend="hotcoco")
        assert name == "pycocotools"
        expected = coco_metrics(boxes(**change)[0], results, task, backend="pycocotools")
        np.testing.assert_equal(metrics, expected)


@pytest.mark.parametrize("key", ["ids", "score", "mixed boxes", "no images", "limits"])
def test_unusual_input_is_left_to_pycocotools(key, caplog):
    gt, results = boxes()
    caplog.set_level("INFO", logger="mask_rcnn_repro")
    options = {}
    if key == "ids":
        for entry in (*gt.dataset["images"], *gt.dataset["annotations"], *results):
            name = "image_id" if "image_id" in entry else "id"
            entry[name] = f"image {entry[name]}"
        gt.createIndex()
    if key == "score":
        results[1]["score"] = float("inf")
    if key == "mixed boxes":  # a mask's area is its box's, then
        for annotation in gt.dataset["annotations"]:
            annotation["segmentation"] = [[5, 5, 45, 5, 45, 45, 5, 45]]
        for result in results:
            square = mask_util.frPyObjects([[5, 5, 45, 5, 45, 45, 5, 45]], 80, 100)[0]
            result["segmentation"] = square
    if key == "no images":
        options["image_ids"] = []
    if key == "limits":
        options["max_dets"] = [0, 1, 2]
    task = "segm" if key == "mixed boxes" else "bbox"
    metrics, name = coco_metrics_by(gt, results, task, **options)
    assert name == "pycocotools" and "not hotcoco" in caplog.text
    expected = coco_metrics(gt, results, task, backend="pycocotools", **options)
    np.testing.assert_equal(metrics, expected)


def test_errors_are_those_of_pycocotools():
    gt, results = boxes()
    results[0]["image_id"] = 77
    for backend in ("pycocotools", "hotcoco"):
        with pytest.raises(AssertionError, match="do not correspond"):
            coco_metrics(gt, results, "bbox", backend=backend)
    with pytest.raises(IndexError):
        coco_metrics(*boxes(), "bbox", max_dets=(1, 10), backend="hotcoco")


def test_input_is_not_changed():
    gt, results = boxes()
    kept = copy.deepcopy((gt.dataset, results))
    coco_metrics(gt, results, "bbox", backend="hotcoco")
    assert (gt.dataset, results) == kept


def test_without_hotcoco(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert check_backend("auto") == "pycocotools"
    assert coco_metrics_by(*boxes(), "bbox")[1] == "pycocotools"
    with pytest.raises(DataError, match=r"pip install hotcoco.*'auto' or 'pycocotools'"):
        check_backend("hotcoco")


def test_evaluator_says_who_computed():
    name = "hotcoco_test"
    gt, _ = boxes()
    DatasetCatalog.register(name, list)
    try:
        MetadataCatalog.get(name).set(thing_dataset_id_to_contiguous_id={1: 0, 2: 1})
        for backend in ("pycocotools", "hotcoco"):
            evaluator = CocoEvaluator(name, backend=backend)
            assert evaluator.computed_by is None
            evaluator._ground_truth = index_ground_truth(gt.dataset)
            evaluator._detections.append(1, 80, 100, [], [])
            evaluator.evaluate()
            assert evaluator.computed_by == backend
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


FORK = """
import os, signal
from mask_rcnn_repro.evaluation.backends import coco_metrics_by
from mask_rcnn_repro.evaluation.ground_truth import index_ground_truth
images = [{"id": i, "width": 100, "height": 80} for i in range(500)]
results = [
    {"image_id": i // 10, "category_id": 1, "bbox": [1, 2, 30, 40], "score": 0.5}
    for i in range(5000)
]
content = {"images": images, "categories": [{"id": 1, "name": "cat"}], "annotations": []}
gt = index_ground_truth(content).coco
print(coco_metrics_by(gt, results, "bbox")[1], flush=True)
child = os.fork()
if child == 0:
    signal.alarm(60)  # ends a child that hangs
    print(coco_metrics_by(gt, results, "bbox")[1], flush=True)
    os._exit(0)
print(os.waitpid(child, 0)[1])
"""


def test_processes_forked_after_use_do_not_hang():
    sources = str(Path(__file__).resolve().parents[2] / "projects")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK],
        env={**os.environ, "PYTHONPATH": sources},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.split() == ["hotcoco", "pycocotools", "0"], done.stderr
