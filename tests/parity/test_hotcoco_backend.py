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
from mask_rcnn_repro.evaluation.coco.backends import (
    backends_for,
    check_backend,
    coco_result,
    pycocotools_metrics,
)
from mask_rcnn_repro.evaluation.coco.ground_truth import index_ground_truth
from mask_rcnn_repro.evaluation.coco.numbers import BackendCannot

from .coco_scenes import Scene, boxes

hotcoco = pytest.importorskip("hotcoco")
from mask_rcnn_repro.evaluation.coco.hotcoco_backend import hotcoco_metrics  # noqa: E402

TASKS = ["bbox", "segm", "keypoints"]
LIMITS = [[1, 10, 100], [1, 10, 50], [1, 2, 3], [3, 2, 1], [1, 10, 100, 300], [2, 100, 100]]


@settings(max_examples=100, deadline=None)
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


def test_hand_computed():
    # one of two objects found exactly: recall 0.5 at precision 1, so 51 of 101 recalls
    for backend in ("hotcoco", "pycocotools", "auto"):
        metrics, name, _ = coco_result(*boxes(1), "bbox", backend=backend)
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
        metrics, name, _ = coco_result(gt, results, task, backend="hotcoco")
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
    metrics, name, _ = coco_result(gt, results, task, **options)
    assert name == "pycocotools" and "not hotcoco" in caplog.text
    expected = coco_metrics(gt, results, task, backend="pycocotools", **options)
    np.testing.assert_equal(metrics, expected)


def test_errors_are_those_of_pycocotools():
    gt, results = boxes()
    results[0]["image_id"] = 77
    for backend in ("pycocotools", "hotcoco"):
        with pytest.raises(AssertionError, match="do not correspond"):
            coco_metrics(gt, results, "bbox", backend=backend)


def test_input_is_not_changed():
    gt, results = boxes()
    kept = copy.deepcopy((gt.dataset, results))
    coco_metrics(gt, results, "bbox", backend="hotcoco")
    assert (gt.dataset, results) == kept


def test_without_hotcoco(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert backends_for("auto") == ["pycocotools"]
    assert coco_result(*boxes(), "bbox")[1] == "pycocotools"
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
from mask_rcnn_repro.evaluation.coco.backends import coco_result
from mask_rcnn_repro.evaluation.coco.ground_truth import index_ground_truth
images = [{"id": i, "width": 100, "height": 80} for i in range(500)]
results = [
    {"image_id": i // 10, "category_id": 1, "bbox": [1, 2, 30, 40], "score": 0.5}
    for i in range(5000)
]
content = {"images": images, "categories": [{"id": 1, "name": "cat"}], "annotations": []}
gt = index_ground_truth(content).coco
print(coco_result(gt, results, "bbox")[1], flush=True)
child = os.fork()
if child == 0:
    signal.alarm(60)  # ends a child that hangs
    print(coco_result(gt, results, "bbox")[1], flush=True)
    os._exit(0)
print(os.waitpid(child, 0)[1])
"""


@pytest.mark.slow
def test_processes_forked_after_use_do_not_hang():
    sources = str(Path(__file__).resolve().parents[2] / "projects")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK],
        env={**os.environ, "PYTHONPATH": sources},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.stdout.split() == ["hotcoco", "pycocotools", "0"], done.stderr
