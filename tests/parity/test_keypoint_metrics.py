"""Keypoint metrics by hotcoco are pycocotools', to the last bit, or pycocotools computes them."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.cocoeval import COCOeval

from mask_rcnn_repro.errors import DataError
from mask_rcnn_repro.evaluation import coco_metrics
from mask_rcnn_repro.evaluation.coco.backends import coco_result, pycocotools_metrics
from mask_rcnn_repro.evaluation.coco.detections import Detections, ResultStream
from mask_rcnn_repro.evaluation.coco.ground_truth import index_ground_truth
from mask_rcnn_repro.evaluation.coco.hotcoco_backend import hotcoco_metrics
from mask_rcnn_repro.evaluation.coco.numbers import BackendCannot

from .coco_scenes import Scene

hotcoco = pytest.importorskip("hotcoco")

OPTIONS = {"image_ids": [1, 2, 3], "category_ids": [1], "max_dets": [20], "oks_sigmas": []}


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.booleans(), st.booleans())
def test_equal_to_the_last_bit(seed, grid, own_sigmas, crowded):
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
    assert hotcoco_metrics(*scene.arguments(), **options) == expected


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
def test_oks_is_that_of_pycocotools(num_keypoints, labelled):
    """To the last bit but one: NumPy's `exp` for AVX-512 rounds otherwise than the C library's.

    From 8 keypoints on, sums are formed in another order than by NumPy, too.
    """
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
    slack = max(1.0, num_keypoints / 4) * np.spacing(oks)
    truth = hotcoco.COCO(gt.dataset)
    fast = hotcoco.COCOeval(truth, truth.load_res(results), "keypoints")
    fast.params.kpt_oks_sigmas = sigmas.tolist()
    fast.params.iou_thrs = [oks - slack, np.nextafter(oks + slack, 2)]
    fast.evaluate()
    found = next(e for e in fast.eval_imgs if e is not None and e["image_id"] == 1)
    assert (np.array(found["dtMatches"])[:, 0] > 0).tolist() == [True, False]


def test_hand_computed():
    # one of two people found exactly, the other not at all: recall 0.5 at precision 1, 51 of 101
    gt, results = people()
    results = [{**results[0], "keypoints": gt.dataset["annotations"][0]["keypoints"]}]
    for backend in ("hotcoco", "auto"):
        metrics, name, _ = coco_result(gt, results, "keypoints", backend=backend)
        assert name == "hotcoco"
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
    assert hotcoco_metrics(gt, results, "keypoints", **OPTIONS) == expected
    assert (expected.stats[0] > 0) == (given in ("no boxes", "no area"))


ODD = {
    "iscrowd": lambda a, r: a.update(iscrowd=2),
    "no iscrowd": lambda a, r: a.pop("iscrowd"),
    "area": lambda a, r: a.update(area=float("nan")),
    "id zero": lambda a, r: a.update(id=0),
    "id text": lambda a, r: a.update(id="x"),
    "id twice": lambda a, r: a.update(id=2),
    "box missing": lambda a, r: a.pop("bbox"),
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
    found = coco_result(gt, stream, "keypoints", backend="hotcoco")
    assert found.backend == "hotcoco" and repr(found.metrics) == repr(expected.metrics)
    assert (found.metrics["AP50"] > 0) == bool(images)


def test_categories_of_a_stream():
    gt, results = people()
    stream = stream_of(results).only([7])
    assert list(stream) == list(stream.with_arrays()) == []
    assert coco_metrics(gt, stream, "keypoints", backend="hotcoco")["AP50"] == 0


def test_an_index_of_other_annotations_is_left_to_pycocotools():
    gt, results = people()
    gt.dataset["annotations"].append(copy.deepcopy(gt.dataset["annotations"][0]))
    with pytest.raises(BackendCannot, match="index"):
        hotcoco_metrics(gt, results, "keypoints", **OPTIONS)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.longdouble, int])
def test_sigmas_of_other_precisions(dtype):
    sigmas = np.linspace(1.03, 1.1, 17).astype(dtype)
    expected = coco_metrics(*people(), "keypoints", oks_sigmas=sigmas, backend="pycocotools")
    metrics, name, _ = coco_result(*people(), "keypoints", oks_sigmas=sigmas)
    assert (name == "hotcoco") == (dtype is int)
    assert repr(metrics) == repr(expected)


def test_a_generator_of_results():
    gt, results = people()
    for backend in ("hotcoco", "pycocotools"):
        metrics = coco_metrics(gt, (r for r in results), "keypoints", backend=backend)
        assert repr(metrics) == repr(coco_metrics(gt, results, "keypoints"))


@pytest.mark.parametrize("odd", ODD)
def test_odd_input_is_left_to_pycocotools(odd):
    gt, results = people()
    ODD[odd](gt.dataset["annotations"][0], results[0])
    with pytest.raises(BackendCannot):
        hotcoco_metrics(gt, results, "keypoints", **OPTIONS)


def test_results_of_other_categories_do_not_count():
    gt, results = people()
    expected = coco_metrics(gt, results, "keypoints", backend="pycocotools")
    other = {**results[0], "category_id": 2, "score": 1.0}
    for more in (other, {k: v for k, v in other.items() if k != "bbox"}):
        found = coco_metrics(gt, [more, *results], "keypoints", backend="hotcoco")
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
    coco_metrics(gt, results, "keypoints", backend="hotcoco")
    assert (gt.dataset, results) == kept
