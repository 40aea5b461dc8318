"""Keypoint metrics by compiled loops are pycocotools', to the last bit, or it computes them."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mask_rcnn_repro.errors import DataError
from mask_rcnn_repro.evaluation import coco_metrics
from mask_rcnn_repro.evaluation.coco import keypoint_metrics
from mask_rcnn_repro.evaluation.coco.backends import (
    BackendCannot,
    backends_for,
    check_backend,
    coco_metrics_by,
    coco_result,
    pycocotools_metrics,
)
from mask_rcnn_repro.evaluation.coco.detections import Detections, ResultStream
from mask_rcnn_repro.evaluation.coco.ground_truth import index_ground_truth
from mask_rcnn_repro.utils import compiled

from .coco_scenes import Scene

pytest.importorskip("numba")
from mask_rcnn_repro.evaluation.coco.keypoint_kernels import exponents, match

OPTIONS = {"image_ids": [1, 2, 3], "category_ids": [1], "max_dets": [20], "oks_sigmas": []}


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.booleans(), st.booleans(), st.integers(1, 9))
def test_equal_to_the_last_bit(seed, grid, own_sigmas, crowded, chunk):
    """With exact ties, crowds, objects without labels, several classes, and over 20 detections."""
    scene = Scene(seed, "keypoints", grid)
    if crowded:
        scene.results = [
            {**result, "score": result["score"] * scene.random.choice([1, 0.9, 0.5])}
            for result in scene.results
            for _ in range(8)
        ]
    options = {
        "image_ids": scene.image_ids,
        "category_ids": scene.category_ids,
        "max_dets": [1, 10, 100],
        "oks_sigmas": np.linspace(0.02, 0.1, 17).tolist() if own_sigmas else [],
    }
    expected = pycocotools_metrics(*scene.arguments(), **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keypoint_metrics, "_CHUNK", 17 * chunk**4)  # a group each, to all in one
        assert keypoint_metrics.keypoint_metrics(*scene.arguments(), **options) == expected


def people(num_keypoints=17, visible=None):
    """Three images, of which two show a person, and a result on each."""
    random = np.random.default_rng(num_keypoints)
    annotations, results = [], []
    for image in (1, 2):
        points = random.uniform(10, 90, (num_keypoints, 2))
        labels = np.full(num_keypoints, 2.0) if visible is None else visible
        annotations.append(
            {
                **{"id": image, "image_id": image, "category_id": 1, "iscrowd": 0, "area": 3000.0},
                "bbox": [95.0, 94.0, 2.0, 3.0],  # no keypoint is within three times its sides
                "keypoints": np.column_stack([points, labels]).ravel().tolist(),
                "num_keypoints": int((labels > 0).sum()),
            }
        )
        found = np.column_stack([points + random.normal(0, 4, points.shape), labels])
        results.append(
            {
                **{"image_id": image, "category_id": 1, "score": 1 - image / 10},
                **{"bbox": [5.0, 5.0, 60.0, 60.0], "keypoints": found.ravel().tolist()},
            }
        )
    content = {
        "images": [{"id": i, "width": 100, "height": 100} for i in (1, 2, 3)],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": annotations,
    }
    return index_ground_truth(content).coco, results


@pytest.mark.parametrize("labelled", ["all", "some", "none"])
@pytest.mark.parametrize("num_keypoints", [1, 2, 7, 8, 9, 15, 16, 17, 31, 128])
def test_oks_is_pycocotools_to_the_last_bit(num_keypoints, labelled):
    random = np.random.default_rng(0)
    visible = {
        "all": np.ones(num_keypoints),
        "some": random.integers(0, 3, num_keypoints).astype(float),
        "none": np.zeros(num_keypoints),
    }[labelled]
    gt, results = people(num_keypoints, visible)
    sigmas = random.uniform(0.02, 0.2, num_keypoints)
    evaluation = COCOeval(gt, gt.loadRes(copy.deepcopy(results)), "keypoints")
    evaluation.params.kpt_oks_sigmas = sigmas
    evaluation._prepare()
    oks = evaluation.computeOks(1, 1)[0, 0]
    assert 0 < oks < 1
    annotation = gt.dataset["annotations"][0]
    objects = np.reshape(annotation["keypoints"], (1, -1, 3))
    found = np.reshape(results[0]["keypoints"], (1, -1, 3))
    area, groups = np.array([3000.0]), np.array([[0, 1, 0, 1]])
    buffer = np.empty(num_keypoints)
    used = exponents(
        *(groups, 0, 1, objects, area, np.array([annotation["bbox"]]), found),
        *((sigmas * 2) ** 2, buffer),
    )
    assert used == (np.count_nonzero(visible) or num_keypoints)
    # matches at this threshold and not at the next number; 1 is never asked for
    thresholds = np.array([oks, np.nextafter(oks, 2)])
    no = np.zeros(1, bool)
    tp, fp = np.zeros((2, 1, 2, 1), bool)
    sizes = np.array([[0, 1e10]])
    match(
        *(groups, 0, 1, objects, area, no, no, np.array([3600.0])),
        *(np.exp(buffer[:used]), thresholds, sizes, tp, fp),
    )
    assert tp.ravel().tolist() == [True, False] and fp.ravel().tolist() == [False, True]


def test_hand_computed():
    # one of two people found exactly, the other not at all: recall 0.5 at precision 1, 51 of 101
    gt, results = people()
    results = [{**results[0], "keypoints": gt.dataset["annotations"][0]["keypoints"]}]
    for backend in ("compiled", "auto"):
        metrics, name = coco_metrics_by(gt, results, "keypoints", backend=backend)
        assert name == "compiled"
        assert metrics["AP"] == metrics["APm"] == pytest.approx(100 * 51 / 101)
        assert np.isnan(metrics["APl"])


@pytest.mark.parametrize(
    "given", ["no results", "no annotations", "neither", "no boxes", "no area"]
)
def test_little_input(given):
    gt, results = people()
    if given in ("no annotations", "neither"):
        gt = index_ground_truth({**gt.dataset, "annotations": []}).coco
    if given == "no boxes":
        results = [{k: v for k, v in r.items() if k != "bbox"} for r in results]
    elif given == "no area":
        for annotation, result in zip(gt.dataset["annotations"], results, strict=True):
            annotation["area"] = 0.0
            result["keypoints"] = annotation["keypoints"]
    elif given != "no annotations":
        results = []
    expected = pycocotools_metrics(gt, copy.deepcopy(results), "keypoints", **OPTIONS)
    assert keypoint_metrics.keypoint_metrics(gt, results, "keypoints", **OPTIONS) == expected
    assert (expected.stats[0] > 0) == (given in ("no boxes", "no area"))


ODD = {
    "iscrowd": lambda a, r: a.update(iscrowd=2),
    "no iscrowd": lambda a, r: a.pop("iscrowd"),
    "area": lambda a, r: a.update(area=float("nan")),
    "id zero": lambda a, r: a.update(id=0),
    "id text": lambda a, r: a.update(id="x"),
    "id twice": lambda a, r: a.update(id=2),
    "box missing": lambda a, r: a.pop("bbox"),
    "keypoint missing": lambda a, r: a.update(keypoints=a["keypoints"][:-3]),
    "unknown image": lambda a, r: r.update(image_id=99),
    "image text": lambda a, r: r.update(image_id="1"),
    "image float": lambda a, r: r.update(image_id=1.0),
    "score": lambda a, r: r.update(score=float("inf")),
    "box without numbers": lambda a, r: r.update(bbox=[]),
    "mask": lambda a, r: (r.pop("bbox"), r.update(segmentation=[])),
    "caption": lambda a, r: r.update(caption="a person", area=3.0),
    "float32 box": lambda a, r: r.update(bbox=list(np.float32(r["bbox"]))),
    "float32 keypoints": lambda a, r: r.update(keypoints=np.float32(r["keypoints"])),
    "unsigned score": lambda a, r: r.update(score=np.uint8(1)),
    "float32 annotation": lambda a, r: a.update(keypoints=np.float32(a["keypoints"])),
    "keypoint too many": lambda a, r: r.update(keypoints=[*r["keypoints"], 1, 2, 2]),
}


def stream_of(results, **options):
    """The results as the evaluator keeps them, over two parts."""
    parts = [Detections(), Detections()]
    for image in (1, 2):
        rows = [{**r, "category_id": 0} for r in results if r["image_id"] == image]
        parts[image - 1].append(image, 100, 100, rows, ["keypoints"])
    options = {"category_ids": [1], "with_box": True, **options}
    return ResultStream(parts, "keypoints", image_ids=[1, 2], **options)


@pytest.mark.parametrize("images", [(), (1,), (2,), (1, 2)])
def test_streams_of_few_results(images):
    gt, results = people()
    results = [r for r in results if r["image_id"] in images]
    stream = stream_of(results)
    expected = coco_result(gt, stream, "keypoints", backend="pycocotools")
    found = coco_result(gt, stream, "keypoints", backend="compiled")
    assert found.backend == "compiled" and repr(found.metrics) == repr(expected.metrics)
    assert (found.metrics["AP50"] > 0) == bool(images)


def test_categories_of_a_stream():
    gt, results = people()
    stream = stream_of(results).only([7])
    assert [len(column) for column in stream.columns()] == [0, 0, 0]
    assert coco_metrics_by(gt, stream, "keypoints", backend="compiled")[0]["AP50"] == 0
    strange = stream_of(results, category_ids=[1.5])
    with pytest.raises(BackendCannot, match="category ids"):
        keypoint_metrics.keypoint_metrics(gt, strange, "keypoints", **OPTIONS)


def test_an_index_of_other_annotations_is_left_to_pycocotools():
    gt, results = people()
    gt.dataset["annotations"].append(copy.deepcopy(gt.dataset["annotations"][0]))
    with pytest.raises(BackendCannot, match="index"):
        keypoint_metrics.keypoint_metrics(gt, results, "keypoints", **OPTIONS)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.longdouble, int])
def test_sigmas_of_other_precisions(dtype):
    sigmas = np.linspace(1.03, 1.1, 17).astype(dtype)
    expected = coco_metrics(*people(), "keypoints", oks_sigmas=sigmas, backend="pycocotools")
    metrics, name = coco_metrics_by(*people(), "keypoints", oks_sigmas=sigmas)
    assert (name == "compiled") == (dtype is not np.longdouble)
    assert repr(metrics) == repr(expected)


def test_a_generator_of_results():
    gt, results = people()
    for backend in ("compiled", "pycocotools"):
        metrics = coco_metrics(gt, (r for r in results), "keypoints", backend=backend)
        assert repr(metrics) == repr(coco_metrics(gt, results, "keypoints"))


@pytest.mark.parametrize("odd", ODD)
def test_odd_input_is_left_to_pycocotools(odd):
    gt, results = people()
    ODD[odd](gt.dataset["annotations"][0], results[0])
    with pytest.raises(BackendCannot):
        keypoint_metrics.keypoint_metrics(gt, results, "keypoints", **OPTIONS)


def test_other_tasks_and_many_keypoints_are_left_to_others():
    with pytest.raises(BackendCannot, match="keypoint metrics only"):
        keypoint_metrics.keypoint_metrics(COCO(), [], "bbox", **OPTIONS)
    options = {**OPTIONS, "oks_sigmas": [0.1] * 129}
    with pytest.raises(BackendCannot, match="129"):
        keypoint_metrics.keypoint_metrics(*people(129), "keypoints", **options)
    gt, results = people(129)
    metrics, name = coco_metrics_by(gt, results, "keypoints", oks_sigmas=[0.1] * 129)
    assert name in ("hotcoco", "pycocotools") and metrics["AP50"] > 0
    boxes = [{k: v for k, v in r.items() if k != "keypoints"} for r in results]
    assert coco_metrics_by(gt, boxes, "bbox", backend="compiled")[1] != "compiled"


def test_results_of_other_categories_do_not_count():
    gt, results = people()
    expected = coco_metrics(gt, results, "keypoints", backend="pycocotools")
    other = {**results[0], "category_id": 2, "score": 1.0}
    for more in (other, {k: v for k, v in other.items() if k != "bbox"}):
        found = coco_metrics_by(gt, [more, *results], "keypoints", backend="compiled")[0]
        assert repr(found) == repr(expected)


@pytest.mark.parametrize("num_keypoints", [16, 34])
def test_numbers_of_keypoints_that_do_not_agree(num_keypoints):
    gt, results = people()
    stream = stream_of(people(num_keypoints)[1])
    for form in (list(stream), stream):
        with pytest.raises(DataError, match="do not agree"):
            coco_result(gt, form, "keypoints")
    with pytest.raises(DataError, match="do not agree"):
        coco_result(gt, results, "keypoints", oks_sigmas=[0.1] * num_keypoints)


def test_input_is_not_changed():
    gt, results = people()
    kept = copy.deepcopy((gt.dataset, results))
    coco_metrics(gt, results, "keypoints", backend="compiled")
    assert (gt.dataset, results) == kept


def test_without_numba(monkeypatch):
    monkeypatch.setattr(compiled, "HAVE_NUMBA", False, raising=False)
    assert "compiled" not in backends_for("auto", "keypoints")
    with pytest.raises(BackendCannot, match="Numba"):
        keypoint_metrics.keypoint_metrics(*people(), "keypoints", **OPTIONS)
    assert coco_metrics_by(*people(), "keypoints", backend="compiled")[1] != "compiled"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"pip install numba.*'auto' or 'pycocotools'"):
        check_backend("compiled")
