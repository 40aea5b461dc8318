"""Error types, confusions, calibration and image quality: by hand and against other libraries."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest

from mask_rcnn_repro.errors import DataError
from mask_rcnn_tools.analyze.calibration import best_threshold, calibration
from mask_rcnn_tools.analyze.cli import parse_args
from mask_rcnn_tools.analyze.confusion import confusion_matrix
from mask_rcnn_tools.analyze.error_types import (
    CORRECT,
    DETECTION_ERRORS,
    average_precision,
    error_types,
)
from mask_rcnn_tools.analyze.evaluation_data import load_evaluation_data
from mask_rcnn_tools.analyze.image_scores import image_scores
from mask_rcnn_tools.analyze.matching import Matches, match
from mask_rcnn_tools.analyze.plots import draw_plots
from mask_rcnn_tools.analyze.results import analyze

from .analysis_helpers import found, random_scene, scene, truth, write_scene

CAT, DOG, COW = 3, 7, 8
A, B, C, D = [10, 10, 40, 40], [100, 10, 40, 40], [10, 100, 40, 40], [100, 100, 40, 40]


def test_every_type_by_hand(tmp_path):
    annotations = [truth(1, CAT, A), truth(1, CAT, B), truth(1, DOG, C), truth(1, DOG, D)]
    detections = [
        found(1, CAT, 0.9, A),  # right
        found(1, CAT, 0.8, [12, 10, 40, 40]),  # found before
        found(1, CAT, 0.7, C),  # is a dog
        found(1, CAT, 0.6, [120, 10, 40, 40]),  # IoU 1/3 with B
        found(1, DOG, 0.5, [120, 10, 40, 40]),  # neither class nor place
        found(1, DOG, 0.4, [60, 60, 20, 20]),  # nothing there
    ]
    data = scene(tmp_path, annotations, detections)
    errors = error_types(data, "bbox")
    names = ["right" if k == CORRECT else DETECTION_ERRORS[k] for k in errors.kind]
    assert names == ["right", "Dupe", "Cls", "Loc", "Both", "Bkg"]
    assert errors.missed.tolist() == [False, False, False, True]  # D alone was near to nothing
    assert errors.counts == {"Cls": 1, "Loc": 1, "Both": 1, "Dupe": 1, "Bkg": 1, "Miss": 1}
    # cat: one of two found first: precision 1 up to recall 0.5, 51 of 101 points; dog: none
    base = 51 / 101
    assert errors.class_ap[:2] == pytest.approx([100 * base, 0])
    assert np.isnan(errors.class_ap[2])  # no cow anywhere
    assert errors.ap == pytest.approx(100 * base / 2)
    # Loc fixed: the second cat is found fourth (after Dupe and Cls): precision 2 / 4 behind 0.5
    assert errors.class_delta["Loc"][0] == pytest.approx(100 * 50 / 101 * 0.5)
    # Cls fixed: the dog at 0.7 comes first of the dogs: 1 of 2
    assert errors.class_delta["Cls"][1] == pytest.approx(100 * 51 / 101)
    assert errors.delta["Cls"] == pytest.approx(100 * 51 / 101 / 2)
    # without the duplicate etc. nothing changes: no true positive comes after it
    assert errors.delta["Dupe"] == errors.delta["Bkg"] == errors.delta["Both"] == 0
    # one dog left to find, none found
    assert errors.delta["Miss"] == 0
    # nothing unfound is asked for: cat 1 of 1 at once; the dogs leave 0 of 0 with false positives
    assert errors.delta["FN"] == pytest.approx(100 * (1 - base) / 2)


def test_of_two_errors_at_one_object_the_better_is_fixed(tmp_path):
    annotations = [truth(1, CAT, A), truth(1, DOG, B)]
    detections = [found(1, CAT, 0.9, B), found(1, COW, 0.8, B), found(1, CAT, 0.3, A)]
    errors = error_types(scene(tmp_path, annotations, detections), "segm")
    assert errors.counts["Cls"] == 2
    # the dog is found by the first; of the cats the third alone is left: AP 100 for both
    assert errors.delta["Cls"] == pytest.approx(100 - errors.ap)


def test_what_misses_cost_by_hand(tmp_path):
    errors = error_types(
        scene(tmp_path, [truth(1, CAT, A), truth(1, CAT, B)], [found(1, CAT, 0.9, A)]), "bbox"
    )
    # one of two found; the other is no longer asked for
    assert errors.ap == pytest.approx(100 * 51 / 101)
    assert errors.delta["Miss"] == errors.delta["FN"] == pytest.approx(100 * 50 / 101)


def test_crowds_excuse_and_are_not_missed(tmp_path):
    annotations = [truth(1, CAT, A), truth(1, CAT, [80, 80, 100, 100], crowd=True)]
    detections = [
        found(1, CAT, 0.9, [100, 100, 40, 40]),
        found(1, DOG, 0.8, [100, 100, 40, 40]),  # not of the crowd's class
        found(1, CAT, 0.7, A),
    ]
    data = scene(tmp_path, annotations, detections)
    assert match(data, "bbox").ignored.tolist() == [True, False, False]
    assert match(data, "bbox", any_class=True).ignored.tolist() == [True, True, False]
    errors = error_types(data, "bbox")
    assert errors.ap == 100
    assert errors.missed.sum() == 0


def test_the_plot_of_confusions_shows_the_classes_that_occur(tmp_path):
    annotations = [truth(1, CAT, A), truth(1, DOG, [100, 100, 40, 40])]
    data = scene(tmp_path, annotations, [found(1, DOG, 0.9, A)])
    confusion = confusion_matrix(data, "bbox")
    shown = confusion.occurring()
    assert (confusion.classes, shown.classes) == (("cat", "dog", "cow"), ("cat", "dog"))
    # cat found as dog, dog not found
    assert shown.counts.tolist() == [[0, 1, 0], [0, 0, 1], [0, 0, 0]]
    assert shown.confused() == confusion.confused()
    analysis = analyze(data, parse_args(["--run", "x", "--parts", "confusion"]))
    files = draw_plots(analysis, "title", tmp_path, ("svg",))
    text = (tmp_path / "confusion.svg").read_text()
    assert files == [tmp_path / "confusion.svg"]
    assert ">cat</text>" in text and ">cow</text>" not in text
    assert "2 of 3 classes occur" in text


def test_no_plot_of_confusions_without_objects_and_detections(tmp_path):
    analysis = analyze(scene(tmp_path, [], []), parse_args(["--run", "x", "--parts", "confusion"]))
    assert analysis.confusion is not None and analysis.confusion.occurring().classes == ()
    assert draw_plots(analysis, "title", tmp_path) == []


def test_no_detections_and_no_objects(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    nothing = scene(tmp_path / "a", [truth(1, CAT, A)], [])
    errors = error_types(nothing, "bbox")
    assert (errors.ap, errors.counts["Miss"], errors.delta["Miss"]) == (0, 1, 0)
    assert confusion_matrix(nothing, "bbox").counts[0, -1] == 1
    assert image_scores(nothing, "bbox").quality.tolist() == [0]
    assert np.isnan(calibration(nothing.detections.score, match(nothing, "bbox")).expected_error)
    empty = scene(tmp_path / "b", [], [found(1, CAT, 0.9, A)])
    assert np.isnan(error_types(empty, "bbox").ap)
    assert error_types(empty, "bbox").counts["Bkg"] == 1


def _tidecv(monkeypatch):
    """The authors' library, without what it needs for plots alone."""

    def anything(*args, **kwargs):
        return [(0, 0, 0)] * 10

    for name in ("appdirs", "seaborn", "pandas"):
        if name not in sys.modules:
            module = types.ModuleType(name)
            module.__getattr__ = lambda key: anything
            module.user_data_dir = lambda *args, **kwargs: "."
            monkeypatch.setitem(sys.modules, name, module)
    pytest.importorskip("tidecv", reason="tidecv, the reference, is not installed")
    import tidecv
    import tidecv.datasets

    return tidecv


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("threshold", [0.5, 0.75])
@pytest.mark.parametrize(("task", "mode"), [("bbox", "bbox"), ("segm", "mask")])
def test_equal_to_tidecv(tmp_path, monkeypatch, seed, threshold, task, mode):
    tidecv = _tidecv(monkeypatch)
    monkeypatch.setenv("TIDE_PATH", str(tmp_path))
    name, gt, results = write_scene(tmp_path, *random_scene(seed, crowds=True), images=20)
    ours = error_types(load_evaluation_data(name, [results]), task, threshold)
    tide = tidecv.TIDE(pos_threshold=threshold, mode=mode)
    run = tide.evaluate(
        tidecv.datasets.COCO(str(gt)), tidecv.datasets.COCOResult(str(results)), name="run"
    )
    assert ours.ap == pytest.approx(run.ap, abs=1e-9)
    main, special = tide.get_main_errors()["run"], tide.get_special_errors()["run"]
    expected = {**main, "FP": special["FalsePos"], "FN": special["FalseNeg"]}
    assert ours.delta == pytest.approx(expected, abs=1e-9)
    assert ours.counts == {kind.short_name: n for kind, n in run.count_errors().items()}
    assert sum(ours.counts.values()) > 20


def _hotcoco(gt, results, task):
    hotcoco = pytest.importorskip("hotcoco")
    annotations = hotcoco.COCO(str(gt))
    evaluation = hotcoco.COCOeval(annotations, annotations.load_res(str(results)), task)
    evaluation.evaluate()
    return evaluation


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_confusion_and_calibration_equal_to_hotcoco(tmp_path, seed, task):
    name, gt, results = write_scene(tmp_path, *random_scene(seed, crowds=False), images=20)
    data = load_evaluation_data(name, [results])
    reference = _hotcoco(gt, results, task)
    confusion = confusion_matrix(data, task, score_threshold=0.3)
    expected = reference.confusion_matrix(min_score=0.3)["matrix"].astype(int)
    assert confusion.counts.tolist() == expected.tolist()
    assert confusion.by_truth.sum(axis=1) == pytest.approx(np.ones(4))
    ours = calibration(data.detections.score, match(data, task))
    theirs = reference.calibration()
    assert ours.expected_error == pytest.approx(theirs["ece"])
    assert ours.largest_error == pytest.approx(theirs["mce"])
    assert ours.count.tolist() == [b["count"] for b in theirs["bins"]]


@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_error_types_equal_to_hotcoco(tmp_path, task):
    # without crowd regions, which it treats in another way than tidecv
    annotations, detections = random_scene(4, crowds=False)
    for number, detection in enumerate(detections):
        detection["score"] += number * 1e-6  # ties would be ordered in another way
    name, gt, results = write_scene(tmp_path, annotations, detections, images=20)
    ours = error_types(load_evaluation_data(name, [results]), task)
    theirs = _hotcoco(gt, results, task).tide_errors()
    assert ours.counts == theirs["counts"]
    expected = {kind: 100 * value for kind, value in theirs["delta_ap"].items()}
    assert ours.delta == pytest.approx(expected, abs=1e-9)


def test_confusions_by_hand(tmp_path):
    annotations = [truth(1, CAT, A), truth(1, DOG, B), truth(1, DOG, C)]
    detections = [
        found(1, CAT, 0.9, A),
        found(1, CAT, 0.8, B),
        found(1, DOG, 0.7, B),  # the object is taken, whatever the class
        found(1, DOG, 0.4, C),  # below the threshold
    ]
    confusion = confusion_matrix(scene(tmp_path, annotations, detections), "bbox")
    assert confusion.counts.tolist() == [[1, 0, 0, 0], [1, 0, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0]]
    assert confusion.confused() == [("dog", "cat", 1, 0.5)]


def test_quality_of_images_by_hand(tmp_path):
    annotations = [truth(1, CAT, A), truth(1, CAT, B), truth(2, CAT, A), truth(3, DOG, C)]
    detections = [
        found(1, CAT, 0.9, [18, 10, 32, 40]),  # IoU 0.8
        found(1, CAT, 0.9, D),
        found(2, CAT, 0.9, A),
        found(3, DOG, 0.1, C),
    ]
    scores = image_scores(scene(tmp_path, annotations, detections, images=4), "bbox")
    assert scores.quality[:3] == pytest.approx([0.8 / 2, 1, 0])
    assert np.isnan(scores.quality[3])
    assert scores.worst(9) == [2, 0, 1]
    assert scores.best(1) == [1]
    assert (scores.true[0], scores.false[0], scores.unfound[0]) == (1, 1, 1)


def test_best_threshold_by_hand():
    correct = np.array([True, False, True, True, False])
    score = np.array([0.9, 0.8, 0.5, 0.5, 0.1])
    none = np.zeros(5, bool)
    matches = Matches(np.where(correct, 0, -1), correct * 1.0, none, np.zeros(0))
    best = best_threshold(score, matches, objects=4)
    assert (best.score, best.precision, best.recall) == (0.5, 0.75, 0.75)
    assert best.f1 == pytest.approx(0.75)


def test_average_precision_by_hand():
    # found at ranks 1 and 3 of 2: precision 1 up to recall 0.5, then 2/3
    assert average_precision(np.array([True, False, True]), 2) == pytest.approx(
        (51 + 50 * 2 / 3) / 101
    )
    assert average_precision(np.zeros(0, bool), 2) == 0


def test_the_highest_scores_count(tmp_path):
    detections = [found(1, CAT, s, A) for s in (0.2, 0.9, 0.5)]
    name, _, results = write_scene(tmp_path, [truth(1, CAT, A)], detections, images=1)
    data = load_evaluation_data(name, [results], max_detections=2)
    assert data.detections.score.tolist() == [0.9, 0.5]


def test_the_limit_is_per_image_and_class(tmp_path):
    annotations = [truth(1, CAT, A), truth(1, DOG, B)]
    detections = [found(1, CAT, s, A) for s in (0.9, 0.8, 0.7)] + [found(1, DOG, 0.1, B)]
    name, _, results = write_scene(tmp_path, annotations, detections, images=1)
    data = load_evaluation_data(name, [results], max_detections=2)
    assert data.detections.score.tolist() == [0.9, 0.8, 0.1]
    assert data.detections.category.tolist() == [0, 0, 1]
    assert error_types(data, "segm").ap == pytest.approx(100)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 99}, "image_id 99"),
        ({"category_id": 1}, "category_id 1"),
        ({"segmentation": None}, "has no 'segmentation'"),
        ({"score": None}, "row 1 (from 0): 'score'"),
    ],
)
def test_predictions_that_do_not_fit(tmp_path, change, message):
    detections = [found(1, CAT, 0.5, A), {**found(1, CAT, 0.4, A), **change}]
    detections = [{k: v for k, v in d.items() if v is not None} for d in detections]
    with pytest.raises(DataError) as error:
        scene(tmp_path, [truth(1, CAT, A)], detections)
    assert message in str(error.value)


def test_files_of_different_detections(tmp_path):
    name, _, results = write_scene(tmp_path, [truth(1, CAT, A)], [found(1, CAT, 0.5, A)], 1)
    other = tmp_path / "other.json"
    other.write_text(results.read_text().replace("0.5", "0.6", 1))
    with pytest.raises(DataError, match="in the same order"):
        load_evaluation_data(name, [results, other])
